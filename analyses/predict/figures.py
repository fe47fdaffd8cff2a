"""Figures of predictions: one forecast, and the tournament of predictors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.figures import domain_label
from analyses.figures.style import (
    ANSWERS,
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    NEITHER,
    NULL,
    ORANGE,
    PURPLE,
    VERMILLION,
    new_figure,
    styled,
)
from analyses.predict.accuracy import PARTS
from analyses.predict.registry import PREDICTORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyses.predict.forecasts import Forecast
    from analyses.predict.world import PredictedRun

# Above this share of compliance in the probability that is not refusal, targets complied.
COMPLIES_FROM = 0.5
KINDS = {
    "kernel": VERMILLION,
    "geometry": BLUE,
    "trivial": MUTED,
    "early trajectory": ORANGE,
    "planted": PURPLE,
}
TITLES = {
    "all_pairs": "All pairs",
    "potency": "Source effect\n(which source)",
    "susceptibility": "Target effect\n(which target)",
    "within_source": "Within a source\n(which is next)",
    "entanglement": "Interaction\n(which pair)",
}


# Not available before training: drawn separately.
NO_RIVALS = ("early trajectory", "planted")
KIND_NAMES = {
    "kernel": "gradients",
    "geometry": "states",
    "trivial": "no mechanism",
    "early trajectory": "after a little training",
    "planted": "the ground truth",
}
GAP = 1.0
SHOWN = ("objective kernel", "mean-difference cosine", "PC1 (the paper's R3)")


@styled
def forecast_figure(forecast: Forecast) -> Figure:
    """Expected A of every other domain, with a 95% interval, and the target's compliance share.

    Below: compliance's current share of the probability that is not refusal on the target's
    prompts. If it is small, probability moves from refusal to neither answer nor refusal. Without
    refusal log-odds there is no such panel.
    """
    table = forecast.leakage.dropna(subset=["value"]).iloc[::-1]
    height = 0.42 * len(table) + 0.4
    figure = new_figure(6.0, height + (1.9 if forecast.compliance else 1.0))
    if forecast.compliance:
        axes, below = figure.subplots(2, 1, height_ratios=[height, 0.5])
        _compliance(below, forecast.concept, forecast.compliance)
    else:
        axes = figure.subplots()
    places = np.arange(len(table))
    values = table["value"].to_numpy(dtype=float)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.axvline(1, color=MUTED, lw=0.8, ls=":")
    axes.hlines(places, table["low"], table["high"], color=VERMILLION, lw=1.8)
    axes.plot(values, places, "o", color=VERMILLION)
    right = float(np.nanmax([1.0, *table["high"]]))
    for place, value in zip(places, values, strict=True):
        axes.text(right + 0.04, place, f"{value:.2f}", va="center", fontsize=8.5)
    axes.set_yticks(places, [domain_label(domain) for domain in table["domain"]])
    axes.set_xlim(min(-0.05, float(np.nanmin(table["low"])) - 0.05), right + 0.2)
    axes.set_ylim(-0.6, len(table) - 0.4)
    said = "expected A" if forecast.compliance else "loss of log-likelihood of refusals"
    axes.set_xlabel(f"{said} (0 untouched, 1 same rate as the target)")
    axes.set_title(f"Before training: unlearning {domain_label(forecast.concept)}")
    return figure


def _compliance(axes: Axes, concept: str, share: Mapping[str, float]) -> None:
    axes.axvspan(0, COMPLIES_FROM, color=NEITHER, alpha=0.18, lw=0)
    axes.axvspan(COMPLIES_FROM, 1, color=ANSWERS, alpha=0.3, lw=0)
    for place, word in ((COMPLIES_FROM / 2, "degenerate"), ((1 + COMPLIES_FROM) / 2, "comply")):
        axes.text(place, 0.62, word, ha="center", va="center", color=MUTED, style="italic")
    if np.isfinite(share["low"]):  # few prompts have no interval
        axes.hlines(0, share["low"], share["high"], color=INK, lw=1.8)
    axes.plot(share["value"], 0, "o", color=INK, clip_on=False)
    axes.set_yticks([0], [domain_label(concept)])
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, 1.1)
    axes.set_xlabel("compliance's share of the probability outside refusal")


@styled
def tournament_figure(result: Mapping[str, Any]) -> Figure:
    """Every predictor's rank correlation with leakage, by part, ordered by all pairs.

    Bars: Student's 95% intervals over worlds; small marks: worlds; grey (null): 95th percentile
    under random permutations of the domains; dashed: the ceiling from the outcome's reliability.
    Below the line: predictors that need training or the ground truth. Last panel: standardised
    coefficients of the frozen set in one regression.
    """
    rivals = [row for row in result["predictors"] if row["kind"] not in NO_RIVALS]
    others = [row for row in result["predictors"] if row["kind"] in NO_RIVALS]
    rows = [*rivals, *others]
    depth = len(rows) - 1 + GAP * bool(others)
    places = [depth - i - GAP * (i >= len(rivals)) for i in range(len(rows))]
    together = {row["predictor"]: row["all_pairs"] for row in result["joint"]["predictors"]}
    count = len(PARTS) + bool(together)
    figure = new_figure(2.1 * count + 2.4, 0.27 * (depth + 1) + 1.9)
    panels = figure.subplots(1, count, sharey=True)
    for axes, part in zip(panels, PARTS, strict=False):
        for place, row in zip(places, rows, strict=True):
            _skill(axes, place, row[part], KINDS.get(row["kind"], GREEN))
        axes.set_title(TITLES[part])
        axes.set_xlabel("rank correlation")
    if together:
        for place, row in zip(places, rows, strict=True):
            if row["predictor"] in together:
                found = together[row["predictor"]]
                _skill(panels[-1], place, found, KINDS.get(row["kind"], GREEN))
        panels[-1].set_title("Compared jointly\n(all pairs)")
        panels[-1].set_xlabel("coefficient")
        drawn = [v for found in together.values() for v in (found["value"], found["high"]) if v]
        widest = max(1.06, *(value + 0.06 for value in drawn))
    if result["ceiling"] is not None:  # reliability of the cells bounds all pairs only
        panels[0].axvline(result["ceiling"], color=MUTED, lw=0.8, ls="--")
    for axes in panels:
        axes.axvline(0, color=MUTED, lw=0.8)
        if others:
            axes.axhline(len(others) - 1 + GAP, color=FAINT, lw=0.8)
        axes.set_xlim(-0.75, widest if together and axes is panels[-1] else 1.06)
        axes.set_ylim(-0.7, depth + 0.7)
    panels[0].set_yticks(places, [_title(row["predictor"]) for row in rows])
    for label, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        label.set_color(KINDS.get(row["kind"], GREEN))
    _legend(figure, {row["kind"] for row in rows}, ceiling=result["ceiling"] is not None)
    return figure


@styled
def cells_figure(
    worlds: Sequence[PredictedRun], result: Mapping[str, Any], predictors: Sequence[str] = SHOWN
) -> Figure:
    """Prediction against leakage for every pair of every world, one panel per predictor.

    The line is equality, which only a kernel's ratio predicts. The title of each panel gives the
    rank correlation with its 95% interval over worlds, and the null: the 95th percentile under
    random permutations of the domains.
    """
    rows = {row["predictor"]: row for row in result["predictors"]}
    shown = [rows[name] for name in predictors if name in rows]
    figure = new_figure(3.1 * len(shown) + 0.6, 3.5)
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    table = cells_table(worlds, {**result, "predictors": shown}).dropna()
    for axes, row in zip(panels, shown, strict=True):
        cells = table[table["predictor"] == row["predictor"]]
        colour = KINDS.get(row["kind"], GREEN)
        axes.plot(
            cells["told"], cells["leaked"], "o", ms=3, mec="none", alpha=0.45,
            color=colour, rasterized=True,
        )  # fmt: skip
        if "relative" in row["variant"]:
            axes.axline((0, 0), slope=1, color=MUTED, lw=0.8, ls=":")
        found = row["all_pairs"]
        ends = "" if found["low"] is None else f" ({found['low']:.2f} to {found['high']:.2f})"
        null = "" if found["null_high"] is None else f"; by chance < {found['null_high']:.2f}"
        axes.set_title(f"{_title(row['predictor'])}\n")
        said = "undefined" if found["value"] is None else f"{found['value']:.2f}{ends}{null}"
        axes.text(0, 1.02, said, transform=axes.transAxes, fontsize=8, color=MUTED)
        axes.set_xlabel("predicted before training")
    panels[0].set_ylabel("leakage area")
    return figure


def cells_table(worlds: Sequence[PredictedRun], result: Mapping[str, Any]) -> pd.DataFrame:
    """A row per world, predictor and pair: ``told`` (predicted before training), and ``leaked``."""
    rows = []
    for world in worlds:
        for row in result["predictors"]:
            name = row["predictor"]
            told = world.predictions[world.key(name, row["variant"], result["layers"])]
            for i, j in np.argwhere(world.outcome.measured):
                source, target = world.domains[i], world.domains[j]
                leaked = world.outcome.leakage[i, j]
                rows.append((world.name, name, source, target, told[i, j], leaked))
    return pd.DataFrame(rows, columns=["world", "predictor", "source", "target", "told", "leaked"])


def _title(predictor: str) -> str:
    """A predictor as figures name it; files keep its older name."""
    if predictor in PREDICTORS:
        return PREDICTORS.abouts[predictor].title
    return predictor.replace("planted ", "ground-truth ")


def _skill(axes: Axes, place: float, found: Mapping[str, Any], colour: str) -> None:
    if found["value"] is None:
        axes.text(0.5, place, "no prediction", color=MUTED, fontsize=7, va="center", ha="center",
                  style="italic")  # fmt: skip
        return
    axes.barh(place, found.get("null_high") or 0.0, color=NULL, height=0.8)
    worlds = [value for value in found["worlds"] if value is not None]
    # Rasterised: a thousand vector marks would dominate the file size.
    axes.plot(worlds, [place] * len(worlds), "|", color=colour, alpha=0.35, ms=5, rasterized=True)
    if found["low"] is not None:
        axes.hlines(place, found["low"], found["high"], color=colour, lw=1.8)
    axes.plot(found["value"], place, "o", color=colour, ms=4.5)


def _legend(figure: Figure, kinds: set[str], *, ceiling: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D([], [], color=colour, marker="o", ms=4.5, lw=1.8, label=KIND_NAMES[kind])
        for kind, colour in KINDS.items()
        if kind in kinds
    ]
    handles.append(Patch(color=NULL, label="null: 95% of random permutations"))
    if ceiling:
        handles.append(Line2D([], [], color=MUTED, lw=0.8, ls="--", label="ceiling (reliability)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
