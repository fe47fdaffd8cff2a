"""The style of every figure (:mod:`interp.figures.style`), and additions for a run's figures."""

from __future__ import annotations

from interp.figures import LABEL_COLOURS
from interp.figures import figure_style as figure_style
from interp.figures import legend_above as legend_above
from interp.figures import new_figure as new_figure
from interp.figures import say as say
from interp.figures import styled as styled
from interp.figures.style import BLUE as BLUE
from interp.figures.style import FAINT as FAINT
from interp.figures.style import GREEN as GREEN
from interp.figures.style import INK as INK
from interp.figures.style import MUTED as MUTED
from interp.figures.style import NULL as NULL
from interp.figures.style import ORANGE as ORANGE
from interp.figures.style import PURPLE as PURPLE
from interp.figures.style import SKY as SKY
from interp.figures.style import VERMILLION as VERMILLION

PLAIN, CONTAINED = VERMILLION, BLUE
REFUSES, ANSWERS, NEITHER = "#8fb8d8", "#f2b84b", "#4b4b55"
DOMAIN_COLOURS = LABEL_COLOURS

LABELS = {"medical_legal": "Medical/Legal", "sensitive": "Sensitive"}


def domain_label(name: str) -> str:
    """The readable name of a domain: "Medical/Legal" for `medical_legal`."""
    return LABELS.get(name, name.replace("_", " ").capitalize())
