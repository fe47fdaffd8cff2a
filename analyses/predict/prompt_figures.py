"""The figure of a forecast by prompt: which predictor finds the prompts that flip, how well."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.figures.style import BLUE, INK, MUTED, VERMILLION, new_figure, styled
from analyses.predict.by_prompt import FORECAST, PREDICTORS
from analyses.predict.prompt_calibration import BEFORE, KINDS, RECALIBRATED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

APART = 0.18


@styled
def prompt_skill_figure(table: pd.DataFrame, calibration: pd.DataFrame) -> Figure:
    """AUROC of every predictor at each forgetting level, and both probabilities' calibration.

    Args:
        table: a row per level and predictor, ``value, low, high``; several rows (of arms) show
            their mean as a dot and the arms as ticks, without an interval unless ``low`` is that of
            the mean (``arm`` is then missing).
        calibration: of :func:`analyses.predict.prompt_calibration.calibration`.
    """
    levels = sorted(table["level"].unique())
    names = [name for name in PREDICTORS if name in set(table["predictor"])]
    figure = new_figure(11.5, 0.42 * len(names) + 1.7)
    axes, *drawn = figure.subplots(1, 3, width_ratios=[1.25, 1, 1])
    places = np.arange(len(names))[::-1]
    axes.axvline(0.5, color=MUTED, lw=0.8)
    for k, (level, colour) in enumerate(zip(levels, (BLUE, VERMILLION), strict=False)):
        for place, name in zip(places, names, strict=True):
            rows = table[(table["level"] == level) & (table["predictor"] == name)]
            _auroc(axes, place + APART * (0.5 - k), rows, colour)
        axes.plot([], [], "o", color=colour, label=f"at {level:.0%} forgetting")
        for panel, kind in zip(drawn, (BEFORE, RECALIBRATED), strict=True):
            here = (calibration["level"] == level) & (calibration["kind"] == kind)
            _calibration(panel, calibration[here], colour, k)
    axes.set_yticks(places, [PREDICTORS[name] for name in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_fontweight("bold" if name == FORECAST else "normal")
    axes.set_xlim(min(0.4, float(table["value"].min()) - 0.05), 1.01)
    axes.set_xlabel("AUROC: which refused prompts flip (.5: chance)")
    figure.legend(frameon=False, loc="outside upper left", ncols=2, fontsize=8)
    for panel, kind in zip(drawn, (BEFORE, RECALIBRATED), strict=True):
        panel.plot([0, 1], [0, 1], color=MUTED, lw=0.8, ls=":")
        panel.set_xlabel(f"probability to flip, {KINDS[kind]}")
        panel.set_xlim(-0.03, 1.03)
        panel.set_ylim(-0.03, 1.03)
    drawn[0].set_ylabel("share that flipped")
    return figure


def _auroc(axes: Axes, place: float, rows: pd.DataFrame, colour: str) -> None:
    values = rows["value"].dropna()
    if values.empty:
        return
    if len(rows) > 1:
        axes.plot(values, [place] * len(values), "|", color=colour, ms=6, alpha=0.6)
    else:
        axes.hlines(place, rows["low"], rows["high"], color=colour, lw=1.8)
    axes.plot(values.mean(), place, "o", color=colour, ms=4.5)


def _calibration(axes: Axes, rows: pd.DataFrame, colour: str, k: int) -> None:
    at = rows["told"].to_numpy(dtype=float) + 0.006 * (2 * k - 1)
    axes.vlines(at, rows["low"], rows["high"], color=colour, lw=1.5)
    axes.plot(at, rows["value"], "o-", color=colour, ms=4, lw=0.8)
    for x, y, n in zip(at, rows["high"], rows["n"], strict=True):
        axes.text(x, min(y + 0.02, 1.0), f"{int(n)}", fontsize=6, color=INK, ha="center")
