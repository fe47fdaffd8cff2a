"""Patch states or weights of one run into another, one cell at a time, and measure the effect.

First make :class:`PatchRuns`: ``between_models(base, after, prompts)`` patches between models and
needs no pairs of prompts; ``PromptPairs(…).denoising(lm)`` patches between prompts. Then call one
of these functions:

=================  ===============================================================================
``patch``          exact effects of states by layer and position, component or head
``attribute``      the same to first order, from one gradient; check it with ``patch_agreement``
``stitch``         whole models joined at a layer: representation or routing
``patch_weights``  effects of weights by layer, module or matrix
=================  ===============================================================================

All but ``stitch`` return :class:`Effects`, with intervals over prompts. ``patch`` and
``patch_weights`` also offer random controls.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
