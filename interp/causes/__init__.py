r"""Which change of a model carries what a readout lost: rotation, gain, offset or routing.

At one layer a prompt's last state is the mean of its class plus what is its own, and the mean of
the positive class is :math:`c + \tfrac12\lVert r\rVert\,\hat r`
(:mod:`interp.similarity.rotation`). So there are five things that may have changed between base and
after,

=============  ====================================================================
``rotation``   where :math:`\hat r` points
``gain``       how long :math:`r` is
``offset``     where the midpoint :math:`c` lies
``routing``    how later layers read the states
``remainder``  what single prompts do around their mean, and the states of other tokens
=============  ====================================================================

and each can be put back with or without the others (:func:`undo`). Their Shapley values over all
orders add up to the whole loss. :func:`control_effects` says what moves do that are as large and
mean nothing; :func:`decide` names one cause, or none.
"""

from __future__ import annotations

from interp.causes.change import CAUSES, PLAYERS, REMAINDER, Change
from interp.causes.controls import control_effects, foreign_effect
from interp.causes.undoing import Undone, undo
from interp.causes.verdict import Verdict, decide, entry_layer

__all__ = [
    "CAUSES",
    "PLAYERS",
    "REMAINDER",
    "Change",
    "Undone",
    "Verdict",
    "control_effects",
    "decide",
    "entry_layer",
    "foreign_effect",
    "undo",
]
