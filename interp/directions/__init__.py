"""Directions of a label in the residual stream: estimators in scikit-learn's manner.

``fit(states, labels, groups)`` fits all layers at once. Hyperparameters go to ``__init__``; learned
attributes end in an underscore. To choose:

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
WhitenedMeanDifference    what separates the labels (Fisher, LDA)       to the positives; log-odds
LogisticProbe             the same by regression                        to the positives; log-odds
========================  ============================================  ===========================

The last two *read* a label: the direction that separates labels best is not the direction to steer
with, and the reverse. ``unit_direction_`` has length one; ``direction_`` keeps the raw length.
:mod:`interp.directions.leace` erases a label.

Reliability is the mean cosine between the directions of two halves of the prompts, about 0 for pure
noise. :mod:`interp.statistics.reliability` computes it with its interval, and
:func:`~interp.statistics.reliability.error_degrees` converts it into the angle to the direction
that infinitely many prompts would give.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
