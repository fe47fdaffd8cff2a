"""One look for every figure: legible in print, on a dark page, and without colour vision."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette (2008): distinct under every common colour deficiency.
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"
INK, MUTED, FAINT, NULL = "#1f2430", "#667085", "#d0d5dd", "#e9ecf1"

LABEL_COLOURS = (VERMILLION, BLUE, GREEN, PURPLE, ORANGE, SKY, "#7a6a00")
LABEL_MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # for readers without colour vision

_RC = {
    "font.family": "DejaVu Sans",  # ships with Matplotlib: the same everywhere
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": INK,
    "xtick.labelcolor": INK,
    "ytick.major.size": 0,
    "grid.color": NULL,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    # A white background, so that a dark notebook shows the figure like a page.
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "spillover",  # the same figure is the same file
    "figure.dpi": 110,
}

PICTURE_DPI, PICTURE_COLOURS = 80, 64  # of a figure in a notebook, next to the vector graphics

P = ParamSpec("P")


def figure_style() -> AbstractContextManager[None]:
    """The settings as a context, which leaves no global state."""
    from matplotlib import rc_context

    return rc_context(_RC)  # type: ignore[arg-type]


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws under the package's style."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with figure_style():
            return draw(*args, **kwargs)

    return drawn


def new_figure(width: float, height: float) -> Figure:
    """A figure that is not registered with pyplot, so that none stays open; sizes in inches.

    A notebook shows it as vector graphics, even without an import of pyplot. It also keeps a
    picture, for sites that show no vector graphics.
    """
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_svg_(self) -> str:
            drawn = StringIO()
            with figure_style():
                self.savefig(drawn, format="svg", metadata={"Date": None})
            # A notebook holds all of it: coordinates to a hundredth of a point, one line.
            short = re.sub(r"(?<![\d.])([1-9]\d*\.\d\d)\d+", r"\1", drawn.getvalue())
            return re.sub(r"\s+", " ", re.sub(r">\s+<", "><", short))

        def _repr_png_(self) -> bytes:
            from PIL import Image

            drawn, small = BytesIO(), BytesIO()
            with figure_style():
                self.savefig(drawn, format="png", dpi=PICTURE_DPI)
            few_colours = Image.open(drawn).convert("RGB").quantize(PICTURE_COLOURS)
            few_colours.save(small, format="png", optimize=True)
            return small.getvalue()

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
