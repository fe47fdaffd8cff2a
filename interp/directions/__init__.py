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
PairedPrincipalComponent  where pairs differ                            mean of the differences
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

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
