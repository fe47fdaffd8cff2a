"""The look of every figure (:mod:`interp.figures.style`), and what a run's figures add to it."""

from __future__ import annotations

from interp.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    LABEL_COLOURS,
    MUTED,
    NULL,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    legend_above,
    new_figure,
    say,
    style,
    styled,
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
    "legend_above",
    "new_figure",
    "say",
    "style",
    "styled",
]

PLAIN, CONTAINED = VERMILLION, BLUE
REFUSES, ANSWERS, NEITHER = "#8fb8d8", "#f2b84b", "#4b4b55"
DOMAIN_COLOURS = LABEL_COLOURS

LABELS = {"medical_legal": "Medical/Legal", "sensitive": "Sensitive"}


def domain_label(name: str) -> str:
    """`medical_legal` as people write it."""
    return LABELS.get(name, name.replace("_", " ").capitalize())
