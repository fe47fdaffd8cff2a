r"""Attribute the loss of a readout to a change of the model: rotation, gain, offset or routing.

At one layer a prompt's last state is the mean of its class plus the prompt's deviation, and the
mean of the positive class is :math:`c + \tfrac12\lVert r\rVert\,\hat r`
(:mod:`interp.similarity.rotations`). So five things may change between base and after,

=============  ====================================================================
``rotation``   where :math:`\hat r` points
``gain``       how long :math:`r` is
``offset``     where the midpoint :math:`c` lies
``routing``    how later layers read the states
``remainder``  deviations of single prompts from their mean, and the states of other tokens
=============  ====================================================================

and :func:`undo` restores each of them with or without the others. Their Shapley values over all
orders sum to the whole loss. :func:`control_effects` measures the effect of random moves of equal
size; :func:`decide` names one cause, or none.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
