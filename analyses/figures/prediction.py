"""Figures of predictions: one forecast, and the tournament of predictors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.figures.style import (
    BLUE,
    GREEN,
    MUTED,
    NULL,
    ORANGE,
    PURPLE,
    VERMILLION,
    domain_label,
    new_figure,
    styled,
)
from analyses.prediction.forecast import Forecast
from analyses.prediction.skill import PARTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {
    "kernel": VERMILLION,
    "geometry": BLUE,
    "trivial": MUTED,
    "early trajectory": ORANGE,
    "planted": PURPLE,
}
TITLES = {
    "all_pairs": "All pairs",
    "potency": "Potency\n(which source)",
    "susceptibility": "Susceptibility\n(which target)",
    "within_source": "Within a source\n(which is next)",
    "entanglement": "Entanglement\n(which pair)",
}


@styled
def forecast_figure(forecast: Forecast) -> Figure:
    """Expected A of every other domain, with its interval over prompts."""
    table = forecast.leakage.iloc[::-1]
    figure = new_figure(5.6, 0.42 * len(table) + 1.3)
    axes = figure.subplots()
    places = np.arange(len(table))
    values = table["value"].to_numpy(dtype=float)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.axvline(1, color=MUTED, lw=0.8, ls=":")
    axes.hlines(places, table["low"], table["high"], color=VERMILLION, lw=1.6)
    axes.plot(values, places, "o", color=VERMILLION)
    axes.set_yticks(places, [domain_label(domain) for domain in table["domain"]])
    axes.set_ylim(-0.6, len(table) - 0.4)
    axes.set_xlabel("expected A (0 untouched, 1 in step with the target)")
    axes.set_title(f"Before training: unlearning {domain_label(forecast.concept)}")
    return figure


@styled
def tournament_figure(result: Mapping[str, Any]) -> Figure:
    """Every predictor's rank correlation with what leaked, by part.

    Bars: 95% bootstrap over worlds; small marks: each world; grey: what 95% of random namings of
    the domains stay below; dashed: the ceiling that the outcome's reliability sets.
    """
    rows = list(reversed(result["predictors"]))
    figure = new_figure(2.3 * len(PARTS) + 2.2, 0.3 * len(rows) + 1.7)
    panels = figure.subplots(1, len(PARTS), sharey=True)
    for axes, part in zip(panels, PARTS, strict=True):
        for place, row in enumerate(rows):
            found, colour = row[part], KINDS.get(row["kind"], GREEN)
            if found["value"] is None:
                axes.text(0.5, place, "says nothing", color=MUTED, fontsize=7, va="center",
                          ha="center", style="italic")  # fmt: skip
                continue
            axes.barh(place, found["null_high"] or 0.0, color=NULL, height=0.8)
            worlds = [value for value in found["worlds"] if value is not None]
            axes.plot(worlds, [place] * len(worlds), "|", color=colour, alpha=0.35, ms=5)
            if found["low"] is not None:
                axes.hlines(place, found["low"], found["high"], color=colour, lw=1.8)
            axes.plot(found["value"], place, "o", color=colour, ms=4.5)
        axes.axvline(0, color=MUTED, lw=0.8)
        if result["ceiling"] is not None:
            axes.axvline(result["ceiling"], color=MUTED, lw=0.8, ls="--")
        axes.set_title(TITLES[part])
        axes.set_xlim(-0.75, 1.05)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel("rank correlation")
    panels[0].set_yticks(range(len(rows)), [row["predictor"] for row in rows])
    return figure
