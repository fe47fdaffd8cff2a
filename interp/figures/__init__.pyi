from .gate import gate_figure as gate_figure
from .gate import transfer_figure as transfer_figure
from .heatmap import draw_cells as draw_cells
from .heatmap import evenly_picked as evenly_picked
from .heatmap import heatmap_figure as heatmap_figure
from .heatmap import layer_heatmaps as layer_heatmaps
from .heatmap import readable_on as readable_on
from .interactive import interactive_heatmap as interactive_heatmap
from .interactive import interactive_histogram as interactive_histogram
from .interactive import interactive_lines as interactive_lines
from .interactive import interactive_points as interactive_points
from .layers import draw_by_layer as draw_by_layer
from .layers import draw_null as draw_null
from .layers import rotation_by_layer_figure as rotation_by_layer_figure
from .layers import similarity_by_layer_figure as similarity_by_layer_figure
from .patching import patching_cells as patching_cells
from .patching import patching_figure as patching_figure
from .patching import stitching_figure as stitching_figure
from .projections import projection_figure as projection_figure
from .projections import state_map_figure as state_map_figure
from .style import LABEL_COLOURS as LABEL_COLOURS
from .style import figure_style as figure_style
from .style import layer_ticks as layer_ticks
from .style import legend_above as legend_above
from .style import new_figure as new_figure
from .style import say as say
from .style import styled as styled

__all__ = [
    "LABEL_COLOURS",
    "draw_by_layer",
    "draw_cells",
    "draw_null",
    "evenly_picked",
    "figure_style",
    "gate_figure",
    "heatmap_figure",
    "interactive_heatmap",
    "interactive_histogram",
    "interactive_lines",
    "interactive_points",
    "layer_heatmaps",
    "layer_ticks",
    "legend_above",
    "new_figure",
    "patching_cells",
    "patching_figure",
    "projection_figure",
    "readable_on",
    "rotation_by_layer_figure",
    "say",
    "similarity_by_layer_figure",
    "state_map_figure",
    "stitching_figure",
    "styled",
    "transfer_figure",
]
