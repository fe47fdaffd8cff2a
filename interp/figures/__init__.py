"""Matplotlib functions that take numbers from this package and return figures.

None is known to pyplot, so none stays open; in a notebook each shows itself as vectors.
"""

from __future__ import annotations

from interp.figures.heatmap import heatmap_figure
from interp.figures.layers import rotation_by_layer_figure, similarity_by_layer_figure
from interp.figures.maps import state_map_figure
from interp.figures.patching import patching_figure, stitching_figure
from interp.figures.projections import projection_figure
from interp.figures.style import style

__all__ = [
    "heatmap_figure",
    "patching_figure",
    "projection_figure",
    "rotation_by_layer_figure",
    "similarity_by_layer_figure",
    "state_map_figure",
    "stitching_figure",
    "style",
]
