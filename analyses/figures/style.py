"""The style of every figure (:mod:`interp.figures.style`), and additions for a run's figures."""

from __future__ import annotations

from interp.figures import LABEL_COLOURS, figure_style, legend_above, new_figure, say, styled
from interp.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    NULL,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
)

__all__ = [
    "ANSWERS",
    "BLUE",
    "CONTAINED",
    "DOMAIN_COLOURS",
    "FAINT",
    "GREEN",
    "INK",
    "MUTED",
    "NEITHER",
    "NULL",
    "ORANGE",
    "PLAIN",
    "PURPLE",
    "REFUSES",
    "SKY",
    "VERMILLION",
    "YELLOW",
    "domain_label",
    "figure_style",
    "legend_above",
    "new_figure",
    "say",
    "styled",
]

PLAIN, CONTAINED = VERMILLION, BLUE
REFUSES, ANSWERS, NEITHER = "#8fb8d8", "#f2b84b", "#4b4b55"
DOMAIN_COLOURS = LABEL_COLOURS

LABELS = {"medical_legal": "Medical/Legal", "sensitive": "Sensitive"}


def domain_label(name: str) -> str:
    """The readable name of a domain: "Medical/Legal" for `medical_legal`."""
    return LABELS.get(name, name.replace("_", " ").capitalize())
