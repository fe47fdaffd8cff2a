"""What carries one domain's loss: shares with intervals against random moves, and by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    MUTED,
    NULL,
    ORANGE,
    VERMILLION,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

COLOURS = {
    "rotation": BLUE,
    "gain": VERMILLION,
    "offset": GREEN,
    "routing": ORANGE,
    "remainder": MUTED,
}
MARKERS = dict(zip(COLOURS, "osD^x", strict=True))


@styled
def causes_figure(shares: pd.DataFrame, layer: int, title: str) -> Figure:
    """Left: shares at the verdict's layer. Right: at every layer.

    Filled: Shapley share with its 95% interval over prompts; arrows: undone alone in the
    after-model (right) and done alone to the base (left); grey: 5th to 95th percentile of random
    moves as large.
    """
    figure = new_figure(7.6, 3.1)
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    here = shares[shares["layer"] == layer].iloc[::-1].reset_index(drop=True)
    for place, row in here.iterrows():
        y, colour = int(str(place)), COLOURS[row["player"]]
        if np.isfinite(row["control_high"]):
            low, high = row["control_low"], row["control_high"]
            left.barh(y, high - low, left=low, color=NULL, height=0.72)
        left.hlines(y, row["share_low"], row["share_high"], color=colour, lw=2)
        left.plot(row["share"], y, MARKERS[row["player"]], color=colour, ms=6)
        left.plot(row["restored"], y + 0.24, ">", color=colour, ms=3.5, alpha=0.7)
        left.plot(row["removed"], y - 0.24, "<", color=colour, ms=3.5, alpha=0.7)
    for value in (0, 1):
        left.axvline(value, color=FAINT, lw=1, zorder=0)
        right.axhline(value, color=FAINT, lw=1, zorder=0)
    left.set_yticks(range(len(here)), list(here["player"]))
    left.set_ylim(-0.6, len(here) - 0.4)
    left.set_xlabel(f"share of the loss, after layer {layer}")
    for player, rows in shares.groupby("player", sort=False):
        name = str(player)
        right.plot(
            rows["layer"], rows["share"], MARKERS[name] + "-", color=COLOURS[name], ms=4, lw=1.2
        )
    layers = sorted(set(shares["layer"]))
    right.set_xticks(layers[:: max(1, -(-len(layers) // 8))])
    right.set_xlabel("layer")
    right.set_ylabel("share of the loss")
    left.set_title(title)
    figure.legend(handles=_legend(), loc="outside lower left", ncols=4, handletextpad=0.3)
    return figure


def _legend() -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = {"o": "share", ">": "undone alone", "<": "done alone"}
    lines: list[Artist] = [
        Line2D([], [], color=MUTED, marker=mark, ls="", ms=5, label=label)
        for mark, label in marks.items()
    ]
    return [*lines, Patch(color=NULL, label="random moves as large, 5–95%")]
