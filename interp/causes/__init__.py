r"""Attribute the loss of a readout to a change of the model: rotation, gain, offset or routing.

At one layer, the state of a prompt's last token is the mean of its class plus the prompt's
deviation. The mean of the positive class is :math:`c + \tfrac12\lVert r\rVert\,\hat r`
(:mod:`interp.similarity.rotations`). So five things may change between the base and the
after-model:

=============  ====================================================================
``rotation``   the orientation :math:`\hat r`
``gain``       the length of :math:`r`
``offset``     the midpoint :math:`c`
``routing``    how later layers read the states
``remainder``  deviations of single prompts from their mean, and the states of other tokens
=============  ====================================================================

:func:`undo` restores each of them in every combination with the others. Their Shapley values over
all orders sum to the whole loss. :func:`control_effects` measures the effect of random edits of
equal size. :func:`decide` names a cause that carries more than half of the
loss; otherwise the verdict is ``mixed`` or not decided.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
