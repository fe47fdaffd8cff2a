"""Exchange states or weights between two runs, one place at a time, and see what a readout does.

Start from an :class:`Exchange`: ``between_models(base, after, prompts)`` needs no pairs of prompts,
``PromptPairs(…).denoising(lm)`` exchanges between prompts. Then

==============  ==================================================================================
``patch``       states by layer and position, by component, by head, exactly
``attribute``   the same to first order, from one gradient; ``agreement`` says how well
``stitch``      whole models at a layer: representation or routing
``restore``     weights by layer, module or matrix
==============  ==================================================================================

All but ``stitch`` give :class:`Effects`, with intervals over prompts and random controls.
"""

from __future__ import annotations

from interp.patching.activation import patch
from interp.patching.attribution import attribute
from interp.patching.effects import Agreement, Cell, Effects, agreement
from interp.patching.exchange import WHOLE, Exchange, between_models, with_each_token
from interp.patching.pairs import PromptPairs, with_roles
from interp.patching.restoration import (
    by_layer,
    by_matrix,
    by_module,
    in_layers,
    restore,
    weights_from,
)
from interp.patching.stitching import Stitching, stitch

__all__ = [
    "WHOLE",
    "Agreement",
    "Cell",
    "Effects",
    "Exchange",
    "PromptPairs",
    "Stitching",
    "agreement",
    "attribute",
    "between_models",
    "by_layer",
    "by_matrix",
    "by_module",
    "in_layers",
    "patch",
    "restore",
    "stitch",
    "weights_from",
    "with_each_token",
    "with_roles",
]
