"""One look for every figure: legible in print, on a dark page, and without colour vision."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

from interp.figures.settings import FAINT as FAINT
from interp.figures.settings import INK as INK
from interp.figures.settings import MUTED as MUTED
from interp.figures.settings import NULL as NULL
from interp.figures.settings import figure_style as figure_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette (2008): distinct under every common colour deficiency.
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

LABEL_COLOURS = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY, "#7a6a00")
LABEL_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # for readers without colour vision

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws under the package's style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with figure_style():
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> Figure:
    """A figure that is not registered with pyplot, so that none stays open; sizes in inches."""
    from interp.figures.notebook import NotebookFigure

    return NotebookFigure(figsize=(width, height), layout="constrained")


def say(axes: Axes, text: str) -> None:
    """An empty panel with the reason why it is empty."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, transform=axes.transAxes)


def legend_above(axes: Axes, handles: list | None = None) -> None:
    """A one-line legend above the panel, where it does not cover data."""
    axes.legend(
        handles=handles or axes.get_legend_handles_labels()[0],
        loc="lower left",
        bbox_to_anchor=(-0.02, 1.0),
        ncols=4,
        borderpad=0,
        columnspacing=1.0,
        handlelength=1.4,
        handletextpad=0.4,
    )


def layer_ticks(axes: Axes, layers: tuple[int, ...] | list[int]) -> None:
    """A tick per layer, or about eight ticks."""
    axes.set_xticks(list(layers)[:: max(1, -(-len(layers) // 8))])
