"""Containment figures: held-out recovery against the target's answers and the amount of data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.contain.methods import METHODS
from analyses.figures.style import FAINT, INK, MUTED, NULL, legend_above, new_figure, say, styled
from interp.registry import colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Gap between methods with equal answer rates, as a share of the axis.
DODGE = 0.01
LEAST_SHOWN, MOST_SHOWN = -0.6, 1.2


@styled
def containment_study_figure(methods: pd.DataFrame, recommended: tuple[Any, ...] | None) -> Figure:
    """Left: recovery in held-out domains against the target's answers, one point per method and
    amount (points with equal answer rates are shifted sideways).

    Right: recovery by the number of retained examples, held out (solid) and retained (dotted);
    the band (null) is the held-out recovery with as many random examples. Methods that
    complied on no split do not appear.
    """
    figure = new_figure(11.0, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
    hues = colours(METHODS.abouts)
    _front(left, methods, recommended, hues)
    _curves(right, methods, hues)
    return figure


def _front(
    axes: Axes, methods: pd.DataFrame, recommended: tuple[Any, ...] | None, hues: Mapping[str, str]
) -> None:
    shown = methods.dropna(subset=["held_out"])
    axes.axhspan(-0.02, 0.02, color=NULL, lw=0)
    axes.axhline(1, color=FAINT, lw=1)
    if shown.empty:
        say(axes, "no method complied on any split")
        return
    apart = DODGE * max(float(np.ptp(shown["answer_rate"])), 0.1)
    places = {name: apart * i for i, name in enumerate(reversed(list(METHODS)))}
    shown = shown.assign(answered=shown["answer_rate"] - shown["method"].map(places))
    for row in shown.to_dict("records"):
        colour = hues[row["method"]]
        size = 4 + 1.6 * np.log2(1 + _amount(row, methods) / 8)
        axes.errorbar(
            row["answered"], row["held_out"],
            yerr=[[max(0.0, row["held_out"] - row["held_out_low"])],
                  [max(0.0, row["held_out_high"] - row["held_out"])]],
            fmt="o", ms=size, color=colour, lw=1.1, alpha=0.9,
            markerfacecolor=colour if row["complied"] == row["splits"] else "white",
        )  # fmt: skip
        if recommended and (row["method"], _count(row["examples"])) == tuple(recommended[:2]):
            axes.plot(row["answered"], row["held_out"], "o", ms=size + 7, mfc="none", mec=INK)
    front = _pareto(shown)
    axes.plot(front["answered"], front["held_out"], color=MUTED, lw=1, ls=(0, (3, 2)), zorder=0)
    # The interval of two worlds would fill the axis, so it is clipped.
    axes.set_ylim(max(axes.get_ylim()[0], LEAST_SHOWN), min(axes.get_ylim()[1], MOST_SHOWN))
    axes.set_xlabel(
        "target's prompts answered, at the same forgetting level\n"
        "(filled: complied on every split; size: retained examples)"
    )
    axes.set_ylabel("recovery in held-out domains")


def _curves(axes: Axes, methods: pd.DataFrame, hues: Mapping[str, str]) -> None:
    curves = methods[methods["method"].isin([n for n, m in METHODS.items() if m.chooses])]
    axes.axhline(1, color=FAINT, lw=1)
    axes.axhspan(-0.02, 0.02, color=NULL, lw=0)
    ticks = sorted({_amount(row, methods) for row in curves.to_dict("records")})
    for name, rows in curves.groupby("method", sort=False):
        rows = rows.assign(amount=[_amount(r, methods) for r in rows.to_dict("records")])
        rows = rows.sort_values("amount")
        if name == "random":
            axes.fill_between(
                rows["amount"], rows["held_out_low"], rows["held_out_high"], color=NULL, lw=0,
                zorder=0,
            )  # fmt: skip
        axes.plot(rows["amount"], rows["held_out"], "o-", ms=4, color=hues[str(name)], lw=1.5)
        axes.plot(
            rows["amount"], rows["retained"], "s:", ms=3.5, mfc="white", color=hues[str(name)],
            lw=1,
        )  # fmt: skip
    for name, rows in methods[~methods.index.isin(curves.index)].groupby("method", sort=False):
        row = rows.iloc[0]
        axes.axhline(row["held_out"], color=hues[str(name)], lw=1.2, alpha=0.8)
    for name in methods["method"].drop_duplicates():
        axes.plot([], [], "o-", ms=4, color=hues[name], label=METHODS[name].about.title)
    axes.plot([], [], "s:", ms=3.5, mfc="white", color=MUTED, label="retained domains")
    if ticks:
        axes.set_xscale("log", base=2)
        names = [f"{tick:g}" for tick in ticks]
        if _all(methods) in ticks:
            names[ticks.index(_all(methods))] = "all"
        axes.set_xticks(ticks, names)
        axes.minorticks_off()
    axes.set_xlabel("retained examples (lines: methods without a choice)")
    axes.set_ylabel("recovery")
    legend_above(axes)


def _pareto(shown: pd.DataFrame) -> pd.DataFrame:
    """Pareto-optimal points."""
    ordered = shown.sort_values(["answer_rate", "held_out"], ascending=False)
    best = ordered["held_out"].cummax()
    return ordered[ordered["held_out"] >= best]


def _amount(row: Mapping[Any, Any], methods: pd.DataFrame) -> float:
    count = _count(row["examples"])
    return float(count) if count else _all(methods)


def _count(value: Any) -> int | None:
    return None if value is None or not np.isfinite(value) else int(value)


def _all(methods: pd.DataFrame) -> float:
    """The position of "all" on the axis."""
    most = pd.to_numeric(methods["examples"]).max()
    return 2.0 * float(most) if np.isfinite(most) else 256.0
