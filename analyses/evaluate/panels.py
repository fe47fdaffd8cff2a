"""Panels of an evaluation's figures: dots with intervals, and shares of classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analyses.evaluate.findings import class_by
from analyses.evaluate.measures import Measures, known_classes
from analyses.figures.style import ANSWERS, FAINT, INK, NEITHER, REFUSES, legend_above
from interp.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLASS_COLOURS = {
    "refusal": REFUSES,
    "full_refusal": REFUSES,
    "partial_refusal": "#cfe1ef",
    "evasion": "#b7b7c1",
    "other": "#b7b7c1",
    "other_language": "#d8d8de",
    "empty": "#e4e4e8",
    "gibberish": NEITHER,
    "answer": ANSWERS,
}
MARKERS = "osD^vP"
# Inches: height of a row, and space around a panel.
ROW, AROUND = 0.36, 1.15


@dataclass(frozen=True)
class Series:
    """Dots of one style: an estimate for every row, undefined where none exists."""

    label: str
    estimates: Sequence[Estimate]
    colour: str
    filled: bool = True
    marker: str = "o"


@dataclass(frozen=True)
class Panel:
    """One quantity: its axis label, axis limits and dots.

    Attributes:
        limits: ends of the axis; None fits them to the dots.
        zero: draw a line at 0.
    """

    label: str
    series: Sequence[Series]
    limits: tuple[float, float] | None = (-0.02, 1.02)
    zero: bool = False
    legend: bool = True


def quantity_panel(axes: Axes, labels: Sequence[str], panel: Panel) -> None:
    """:func:`dot_panel` with the axis of its quantity, and a legend."""
    if panel.zero:
        axes.axvline(0, color=FAINT, lw=1)
    dot_panel(axes, labels, panel.series)
    axes.set_xlim(panel.limits)
    axes.set_xlabel(panel.label)
    if panel.legend:
        legend_above(axes)


def dot_panel(axes: Axes, labels: Sequence[str], series: Sequence[Series]) -> None:
    """A row for each label, a dot with its interval for each series, the series side by side."""
    reach = min(0.3, 0.11 * (len(series) - 1))
    # No series where nothing is defined, as of a model that says nothing.
    offsets = np.linspace(-reach, reach, len(series)) if len(series) > 1 else np.zeros(len(series))
    for place, one in zip(offsets, series, strict=True):
        value, low, high = (
            np.array([getattr(estimate, name) for estimate in one.estimates], dtype=float)
            for name in ("value", "low", "high")
        )
        # A number without an interval has no bars.
        around = np.nan_to_num(np.abs(np.stack([value - low, high - value])))
        axes.errorbar(
            value, np.arange(len(labels)) + place, xerr=around, fmt=one.marker, color=one.colour,
            ms=5, lw=1.4, mfc=one.colour if one.filled else "white", label=one.label,
        )  # fmt: skip
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.grid(axis="x")


def class_panel(axes: Axes, measures: Measures, rows: Sequence[tuple[str, str]]) -> None:
    """Shares of the headline's classes; the interval is that of the refusal rate."""
    scorer = measures.findings.headline
    known = known_classes(measures.findings.scores[class_by(scorer)])
    for y, (prompts, group) in enumerate(rows):
        left = 0.0
        for name in known:
            share = measures.pick(f"share:{name}", prompts, group, scorer).value
            if np.isfinite(share):
                axes.barh(
                    y, share, 0.62, left=left, color=CLASS_COLOURS[name], edgecolor="white", lw=0.6
                )
                left += share
        rate = measures.refusal(prompts, group)
        if rate.defined:
            ends = [rate.low, rate.high]
            axes.plot(ends, [y, y], color=INK, lw=1.2, marker="|", ms=6, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    _class_legend(axes, known)


def _class_legend(axes: Axes, names: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=CLASS_COLOURS[name], label=name.replace("_", " ")) for name in names]
    columns = 4 if len(names) == 4 else 3
    axes.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderpad=0,
        columnspacing=0.9, handlelength=1.0, handletextpad=0.4, labelspacing=0.25, fontsize=8,
    )  # fmt: skip
