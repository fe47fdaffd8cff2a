r"""Which layer and position a direction is taken from, by what it does (Arditi et al. 2024, C).

Candidates are the mean differences between positive and negative prompts at every layer's input and
every token between the instruction and the answer. Three numbers come from validation prompts, with
a readout that is high for what positives do:

==========  ======================================================================================
``bypass``  readout on positives with the direction ablated from the whole residual stream
``induce``  readout on negatives with the raw difference added at its own layer's input
``kl``      :math:`\mathrm{KL}(p_{\mathrm{base}} \,\|\, p_{\mathrm{ablated}})` of the next token on
            negatives, in nats: what ablating costs where it should cost nothing
==========  ======================================================================================

Chosen is the lowest bypass among candidates that cost little, induce the behaviour, and lie in the
first 80% of the layers, behind which a direction would be the output tokens' own. The paper keeps
only positives whose readout is above 0 and negatives below 0; so does :func:`score_candidates`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
