"""Matplotlib's settings for every figure, and the greys in them."""

from __future__ import annotations

from contextlib import AbstractContextManager

INK, MUTED, FAINT, NULL = "#1f2430", "#667085", "#d0d5dd", "#e9ecf1"

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


def figure_style() -> AbstractContextManager[None]:
    """The settings as a context, which leaves no global state."""
    from matplotlib import rc_context

    return rc_context(_RC)  # type: ignore[arg-type]
