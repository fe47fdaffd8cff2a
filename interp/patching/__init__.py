"""Patch states or weights of one run into another, one place at a time, and read out the effect.

Start from :class:`PatchRuns`: ``between_models(base, after, prompts)`` needs no pairs of prompts,
``PromptPairs(…).denoising(lm)`` patches between prompts. Then

=================  ===============================================================================
``patch``          states by layer and position, by component, by head, exactly
``attribute``      the same to first order, from one gradient; check it with ``patch_agreement``
``stitch``         whole models at a layer: representation or routing
``patch_weights``  weights by layer, module or matrix
=================  ===============================================================================

All but ``stitch`` give :class:`Effects`, with intervals over prompts and random controls.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
