"""Directions of a label in the residual stream: estimators in scikit-learn's manner.

``fit(states, labels, groups)`` takes all layers at once; hyperparameters go to ``__init__``, what
is learned ends in an underscore. To choose:

========================  ============================================  ===========================
estimator                 what it finds                                 sign and length
========================  ============================================  ===========================
MeanDifference            what the label adds to a state                from the negatives to the
                                                                        positives; raw
FirstPrincipalComponent   where positives differ among themselves       positives' own mean
                                                                        projects positive; one
PairedPrincipalComponent  where twins differ                            mean of the differences
                                                                        projects positive; one
ContrastSubspace          several dimensions of one label               mean difference projects
                                                                        positive on each; one
WhitenedMeanDifference    what tells the labels apart (Fisher, LDA)     to the positives; log-odds
LogisticProbe             the same by regression                        to the positives; log-odds
========================  ============================================  ===========================

The last two *read*: what tells labels apart best is not what to steer with, nor the reverse.
``unit_direction_`` has length one where ``direction_`` keeps its raw one. Erasure of a label is in
:mod:`interp.directions.leace`.

Reliability is the mean cosine between the directions of two halves of the prompts, about 0 for pure
noise; with its interval it comes from :mod:`interp.statistics.reliability`, where
:func:`~interp.statistics.reliability.error_degrees` turns it into the angle to the direction that
endlessly many prompts would give.
"""

from __future__ import annotations

from interp.directions.controls import disjoint_controls
from interp.directions.direction_set import DirectionSet
from interp.directions.mean_difference import MeanDifference
from interp.directions.principal_components import FirstPrincipalComponent, PairedPrincipalComponent
from interp.directions.probe import LogisticProbe
from interp.directions.subspace import ContrastSubspace
from interp.directions.whitened import WhitenedMeanDifference

__all__ = [
    "ContrastSubspace",
    "DirectionSet",
    "FirstPrincipalComponent",
    "LogisticProbe",
    "MeanDifference",
    "PairedPrincipalComponent",
    "WhitenedMeanDifference",
    "disjoint_controls",
]
