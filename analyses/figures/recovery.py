"""Recovery by retain weight, in retained domains and in held-out domains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analyses.figures.leakage import title_of
from analyses.figures.style import (
    ANSWERS,
    CONTAINED,
    FAINT,
    GREEN,
    MUTED,
    NULL,
    legend_above,
    new_figure,
    say,
    styled,
)
from analyses.runs import FEWEST_ANSWERS, Headline, Run, headlines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The axis reaches every value; beyond these limits a value is written at the edge.
USUAL, WIDEST = (-0.15, 1.32), (-1.0, 2.5)
SETS = {"retained": (CONTAINED, "s", "retained"), "held_out": (GREEN, "o", "held out")}


def recovery_panel(axes: Axes, tables: Run, headline: Headline) -> None:
    """Recovery with intervals by retain weight, and the answer rate of the target."""
    if headline.concept is None or not headline.sweep:
        return say(axes, "no containment arm")
    names = [arm.name for arm in headline.sweep]
    labels = [arm.weight_label if arm.retain_weight is not None else arm.label
              for arm in headline.sweep]  # fmt: skip
    x = np.arange(len(names))
    axes.axhspan(-0.02, 0.02, color=NULL, lw=0)
    axes.axhline(1, color=FAINT, lw=1)
    if headline.chosen and headline.contained:
        place = names.index(headline.contained.name)
        axes.axvspan(place - 0.4, place + 0.4, color="#f4f6fa", lw=0, zorder=0)
        axes.text(place, 1.12, "chosen", ha="center", va="bottom", fontsize=8, color=MUTED)
    table = tables.recovery
    bottom, top = USUAL
    if not table.empty:
        table = table[table["quantity"] == "recovery"]
        reached = table.loc[table["arm"].isin(names), "value"].dropna().clip(*WIDEST)
        bottom, top = min([bottom, *reached - 0.12]), max([top, *reached + 0.12])
        for shift, (name, (colour, marker, label)) in zip((-0.1, 0.1), SETS.items(), strict=True):
            rows = table[table["set"] == name].set_index("arm").reindex(names)
            if not (rows["domains"].fillna(0) > 0).any():
                continue
            value = rows["value"].to_numpy(dtype=float)
            reach = np.abs(rows[["low", "high"]].to_numpy(dtype=float) - value[:, None]).T
            axes.errorbar(
                x + shift, value, yerr=np.nan_to_num(reach), fmt=marker, ls="-", color=colour,
                ms=5, lw=1.5, label=label,
            )  # fmt: skip
            for point in np.flatnonzero((value < bottom) | (value > top)):
                edge, align = (bottom, "bottom") if value[point] < bottom else (top, "top")
                axes.text(
                    x[point] + shift, edge, f"{value[point]:.1f}", color=colour, fontsize=8,
                    ha="center", va=align,
                )  # fmt: skip
            missing = ~np.isfinite(value)
            axes.plot(x[missing] + shift, np.zeros(missing.sum()), "x", color=colour, ms=6)
    answers = np.array([tables.verdicts[name].answer_rate.value for name in names])
    axes.plot(
        x, answers, color=ANSWERS, lw=1.5, ls=(0, (2, 1.5)), marker="^", ms=4.5,
        label="target answers",
    )  # fmt: skip
    axes.axhline(FEWEST_ANSWERS, color=ANSWERS, lw=0.8, alpha=0.6)
    axes.set_xticks(x, labels)
    axes.set_xlim(-0.5, len(names) - 0.5)
    axes.set_ylim(bottom, top)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.grid(axis="y")
    axes.set_xlabel("weight of the retain loss")
    axes.set_ylabel("share of the leakage recovered")
    legend_above(axes)


@styled
def containment_figure(tables: Run) -> Figure:
    """The weight sweep of every concept. A cross: undefined; the table gives the reason."""
    found = [headline for headline in headlines(tables.record) if headline.sweep]
    figure = new_figure(max(5.6 * len(found), 5.6), 3.4)
    grid = figure.subplots(1, max(len(found), 1), squeeze=False)[0]
    if not found:
        say(grid[0], "no containment arm")
    for axes, headline in zip(grid, found, strict=False):
        recovery_panel(axes, tables, headline)
        axes.set_title(title_of(headline), pad=20)
    return figure
