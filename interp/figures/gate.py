"""The direction gate with its nulls, and the intervention transfer matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from interp.figures.heatmap import draw_cells
from interp.figures.style import BLUE, FAINT, INK, MUTED, VERMILLION, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from interp.selection import DirectionGate, TransferMatrix


@styled
def gate_figure(gate: DirectionGate) -> Figure:
    """Both effects on test prompts: the direction, its nulls, the unchanged model, the zero form.

    Args:
        gate: the result.
    """
    figure = new_figure(7.4, 2.7)
    grid = figure.subplots(1, 2, sharey=True)
    nulls = list(dict.fromkeys(null for _, null in gate.nulls))
    rows = ["the direction", *(f"{null} directions" for null in nulls), "no edit", "zero form"]
    for axes, effect, base in zip(grid, ("bypass", "induce"), gate.base, strict=True):
        found = getattr(gate, effect)
        axes.axvline(0, color=FAINT, lw=1, zorder=0)
        axes.plot([found.low, found.high], [0, 0], color=VERMILLION, lw=1.4)
        axes.plot(found.value, 0, "o", color=VERMILLION, ms=6)
        for row, null in enumerate(nulls, start=1):
            drawn = gate.nulls[effect, null].draws
            axes.plot(drawn, np.full(len(drawn), row), "|", color=MUTED, ms=9)
        axes.plot(base.value, len(nulls) + 1, "s", color=INK, ms=5)
        if effect == "bypass":
            axes.plot(gate.zero.bypass.value, len(nulls) + 2, "D", color=BLUE, ms=5)
        axes.set_title(f"{effect} (passes {'below' if effect == 'bypass' else 'above'} 0)")
        axes.set_xlabel(f"mean readout on {'positives' if effect == 'bypass' else 'negatives'}")
    grid[0].set_yticks(range(len(rows)), rows)
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    verdict = "passed" if gate.passed else "not passed"
    figure.suptitle(
        f"Direction gate {verdict}: {gate.chosen.kind}, layer {gate.layer}, token {gate.position}; "
        f"KL {gate.kl.value:.3f}",
        fontsize=9,
    )
    return figure


@styled
def transfer_figure(matrix: TransferMatrix) -> Figure:
    """Shares removed and induced, with a number in every cell; hatched inside the null.

    Args:
        matrix: the result.
    """
    names = [label.replace("_", " ") for label in matrix.labels]
    k = len(names)
    side = max(2.0, 0.55 * k + 1.2)
    figure = new_figure(2 * side + 2.4, side + 1.3)
    grid = figure.subplots(1, 2)
    for axes, effect in zip(grid, ("removed", "induced"), strict=True):
        image = draw_cells(
            axes,
            getattr(matrix, effect),
            matrix.outside_null(effect),
            np.ones((k, k), dtype=bool),
            limits=(-1.0, 1.0),
            text="{:.2f}".format,
        )
        axes.set_xticks(range(k), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(k), names if effect == "removed" else [""] * k)
        axes.set_title(effect)
        axes.set_xlabel("affected")
    grid[0].set_ylabel("direction of")
    figure.suptitle(
        f"Share of the gap between positives and negatives; directions of layer {matrix.layer}, "
        f"token {matrix.position}",
        fontsize=9,
    )
    draws = len(matrix.null_removed)
    figure.colorbar(
        image,
        ax=grid,
        shrink=0.75,
        label=f"share of the gap\n(hatched: inside the null,\n{draws} directions)",
    )
    return figure
