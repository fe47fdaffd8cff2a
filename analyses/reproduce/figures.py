"""Two figures of a reproduction: the scores of every arm, and R3 by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.figures import DOMAIN_COLOURS, Drawing, domain_label
from analyses.figures.style import BLUE, FAINT, INK, MUTED, NULL, VERMILLION, new_figure, styled
from analyses.reproduce.comparison import ARM_COLUMNS, MMLU, OVER_REFUSAL
from analyses.reproduce.published import MISTRAL
from analyses.reproduce.result import Result
from analyses.reproduce.words import arm_label, column_label
from unlearning.data import DOMAINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4
MARKERS = {True: "o", False: "s"}  # of Mistral, of Qwen


def reproduction_drawings(found: Result) -> tuple[Drawing, ...]:
    """The figures with their captions and numbers."""
    whose = (
        "Hollow: published numbers of this model."
        if found.asked.known
        else ("Hollow: published numbers of OTHER models (circle Mistral, square Qwen).")
    )
    return (
        Drawing(
            "scores",
            "Refusal scores, measured and published",
            f"Share of test prompts refused. Filled: measured, with 95% intervals over prompts. "
            f"{whose} Grey ticks: the original model, measured.",
            scores_figure(found.scores),
            found.scores,
        ),
        Drawing(
            "entanglement",
            "R3 at every layer",
            "Mean cosine between a concept's first principal component and the raw states of other "
            "concepts' prompts (base model, last prompt token). Grey: simultaneous 95% band of "
            "the null, prompts permuted between the concepts. Dotted: the paper's layer "
            f"({found.layer}, from 0). The title gives the mean |cos| between the components "
            "of two halves of the prompts at this layer.",
            entanglement_figure(found.layers, found.layer, found.plan.study.concepts),
            found.layers,
        ),
    )


@styled
def scores_figure(scores: pd.DataFrame) -> Figure:
    """A panel for the original model and for each arm, a row for each column."""
    keys = ARM_COLUMNS[1:]
    shown = scores[scores["column"] != MMLU]
    parts = shown.groupby(keys, sort=False, dropna=False)
    panels = [(key, part) for key, part in parts if part["value"].notna().any()]
    columns = list(shown["column"].drop_duplicates())
    before = panels[0][1].drop_duplicates("column").set_index("column")["value"]
    rows = -(-len(panels) // COLUMNS)
    width = min(len(panels), COLUMNS)
    figure = new_figure(1.2 + 2.6 * width, 0.5 + 2.5 * rows)
    grid = figure.subplots(rows, width, squeeze=False, sharey=True, sharex=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (key, part) in zip(grid.flat, panels, strict=False):
        _panel(axes, part, columns, before)
        axes.set_title(arm_label(*key), fontsize=9)
    grid[0][0].set_yticks(range(len(columns)), [column_label(name) for name in columns])
    grid[0][0].set_ylim(len(columns) - 0.5, -0.5)
    grid[0][0].set_xlim(-4, 104)
    for axes in list(grid.flat)[max(0, len(panels) - width) : len(panels)]:
        axes.tick_params(labelbottom=True)  # the last row may be shorter than the one above
        axes.set_xlabel("refused, %")
    return figure


def _panel(axes: Axes, part: pd.DataFrame, columns: list[str], before: pd.Series) -> None:
    concept = part["concept"].iloc[0]
    if concept in columns:
        axes.axhspan(columns.index(concept) - 0.5, columns.index(concept) + 0.5, color=NULL, lw=0)
    if OVER_REFUSAL in columns:
        axes.axhline(columns.index(OVER_REFUSAL) - 0.5, color=FAINT, lw=0.8)
    axes.grid(axis="x")
    places = np.arange(len(columns))
    mine = part.drop_duplicates("column").set_index("column").reindex(columns)
    axes.plot(before.reindex(columns), places, "|", color=MUTED, ms=9, mew=1.2)
    value = mine["value"].to_numpy(dtype=float)
    reach = np.abs(mine[["low", "high"]].to_numpy(dtype=float) - value[:, None]).T
    axes.errorbar(value, places, xerr=np.nan_to_num(reach), fmt="o", color=BLUE, ms=4.5, lw=1.4)
    for model, rows in part.groupby("published_model", sort=False):
        theirs = rows.set_index("column").reindex(columns)["published"]
        axes.plot(
            theirs, places, MARKERS[model == MISTRAL], mfc="none", mec=VERMILLION, ms=6, mew=1.2
        )


@styled
def entanglement_figure(layers: pd.DataFrame, layer: int, concepts: Sequence[str]) -> Figure:
    """A panel for each unlearned concept, a line for each other domain.

    Args:
        layers: ``entanglement.csv``, R3 between the concepts at every layer.
        layer: the paper's layer in this model, 0-based.
        concepts: those that were unlearned.
    """
    figure = new_figure(5.2 * len(concepts), 3.0)
    for axes, concept in zip(figure.subplots(1, len(concepts), squeeze=False)[0], concepts,
                             strict=True):  # fmt: skip
        mine = layers[layers["source"] == concept]
        band = mine[mine["target"] != concept].groupby("layer")
        axes.fill_between(
            list(band.groups), band["null_low"].min(), band["null_high"].max(), color=NULL, lw=0
        )
        for target, part in mine.groupby("target", sort=False):
            colour = INK if target == concept else DOMAIN_COLOURS[DOMAINS.index(str(target))]
            axes.plot(
                part["layer"], part["cosine"], color=colour, lw=1.6, marker=".",
                ls=(0, (4, 2)) if target == concept else "-",
                label=domain_label(str(target)) + (" (itself)" if target == concept else ""),
            )  # fmt: skip
        axes.axvline(layer, color=MUTED, lw=0.8, ls=":")
        axes.axhline(0, color=FAINT, lw=0.8)
        axes.set_xlabel("layer")
        axes.set_ylabel("mean cosine with c")
        stability = mine.loc[mine["layer"] == layer, "stability"].iloc[0]
        axes.set_title(f"c of {domain_label(concept)}, split-half |cos| {stability:.2f}")
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
