from .drawings import Drawing as Drawing
from .drawings import overview_figure as overview_figure
from .drawings import run_drawings as run_drawings
from .drawings import save_drawings as save_drawings
from .drawings import write_results as write_results
from .drawings import write_run_figures as write_run_figures
from .geometry import cosine_figure as cosine_figure
from .geometry import cosine_layer_figure as cosine_layer_figure
from .geometry import has_control as has_control
from .geometry import null_of_rotation as null_of_rotation
from .geometry import outside_null as outside_null
from .geometry import rotation_figure as rotation_figure
from .harm import harm_figure as harm_figure
from .leakage import curves_legend as curves_legend
from .leakage import curves_panel as curves_panel
from .leakage import forgetting_curve_figure as forgetting_curve_figure
from .leakage import leakage_figure as leakage_figure
from .leakage import shown_quantity as shown_quantity
from .leakage import title_of as title_of
from .matrix import COLOURS as COLOURS
from .matrix import DARK_FROM as DARK_FROM
from .matrix import PARTS as PARTS
from .matrix import SHOWN as SHOWN
from .matrix import matrix_figure as matrix_figure
from .matrix import run_matrix_figure as run_matrix_figure
from .outcome import outcome_figure as outcome_figure
from .recovery import containment_figure as containment_figure
from .style import DOMAIN_COLOURS as DOMAIN_COLOURS
from .style import domain_label as domain_label
from .style import figure_style as figure_style

__all__ = [
    "COLOURS",
    "DARK_FROM",
    "DOMAIN_COLOURS",
    "PARTS",
    "SHOWN",
    "Drawing",
    "containment_figure",
    "cosine_figure",
    "cosine_layer_figure",
    "curves_legend",
    "curves_panel",
    "domain_label",
    "figure_style",
    "forgetting_curve_figure",
    "harm_figure",
    "has_control",
    "leakage_figure",
    "matrix_figure",
    "null_of_rotation",
    "outcome_figure",
    "outside_null",
    "overview_figure",
    "rotation_figure",
    "run_drawings",
    "run_matrix_figure",
    "save_drawings",
    "shown_quantity",
    "title_of",
    "write_results",
    "write_run_figures",
]
