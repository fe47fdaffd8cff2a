r"""Which change of a model carries what a readout lost: rotation, gain, offset or routing.

At one layer a prompt's last state is the mean of its class plus what is its own, and the mean of
the positive class is :math:`c + \tfrac12\lVert r\rVert\,\hat r`
(:mod:`interp.similarity.rotations`). So there are five things that may have changed between base
and after,

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

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
