from .drawings import Drawing as Drawing
from .drawings import save_drawings as save_drawings
from .drawings import write_run_figures as write_run_figures
from .geometry import has_control as has_control
from .geometry import null_of_rotation as null_of_rotation
from .geometry import outside_null as outside_null
from .leakage import curves_legend as curves_legend
from .leakage import curves_panel as curves_panel
from .leakage import shown_quantity as shown_quantity
from .leakage import title_of as title_of
from .matrix import COLOURS as COLOURS
from .matrix import DARK_FROM as DARK_FROM
from .matrix import PARTS as PARTS
from .matrix import SHOWN as SHOWN
from .matrix import study_matrix_figure as study_matrix_figure
from .style import DOMAIN_COLOURS as DOMAIN_COLOURS
from .style import domain_label as domain_label

__all__ = [
    "COLOURS",
    "DARK_FROM",
    "DOMAIN_COLOURS",
    "PARTS",
    "SHOWN",
    "Drawing",
    "curves_legend",
    "curves_panel",
    "domain_label",
    "has_control",
    "null_of_rotation",
    "outside_null",
    "save_drawings",
    "shown_quantity",
    "study_matrix_figure",
    "title_of",
    "write_run_figures",
]
