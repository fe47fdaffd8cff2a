r"""Select the layer and position of a direction by its causal effect (Arditi et al. 2024, C).

Candidates are the mean differences between positive and negative prompts at every layer's input and
every token between the instruction and the answer. Validation prompts give three scores per
candidate. The readout is high where the model shows the behaviour of positive prompts:

==========  ======================================================================================
``bypass``  readout on positives with the direction ablated from the whole residual stream
``induce``  readout on negatives with the raw difference added at its own layer's input
``kl``      :math:`\mathrm{KL}(p_{\mathrm{base}} \,\|\, p_{\mathrm{ablated}})` of the next token on
            negatives, in nats: the side effect of ablation
==========  ======================================================================================

The rule chooses the lowest bypass among candidates with a small KL that induce the behaviour and
lie in the first 80% of the layers. Directions of later layers represent output tokens. Like the
paper, :func:`score_candidates` keeps only positives with a readout above 0 and negatives with a
readout below 0. Unlike in the paper, both edits spare tokens of massive activation
(:mod:`interp.activations.massive`), because an edit of them has an effect whatever the direction.

:func:`measure_gate` asks whether one direction mediates the behaviour in both ways, with an affine
edit and nulls (:mod:`interp.selection.gate`). :func:`measure_transfer` asks what the edit of one
group's direction does to another group's behaviour.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
