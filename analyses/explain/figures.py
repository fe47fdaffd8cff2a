"""Figure of the causes of one domain's loss: shares, weights and states with their nulls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    say,
    styled,
)
from analyses.report import decimal
from interp.figures import layer_ticks, readable_on

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLOURS = {
    "rotation": BLUE,
    "gain": VERMILLION,
    "offset": GREEN,
    "routing": ORANGE,
    "remainder": MUTED,
}
MARKERS = dict(zip(COLOURS, "osD^x", strict=True))
OUTSIDE = "outside"
MOST_COLUMNS_WITH_NUMBERS = 8
MOST_COLUMNS_NAMED = 12


@styled
def causes_figure(
    shares: pd.DataFrame,
    stitching: pd.DataFrame,
    weights: pd.DataFrame,
    states: pd.DataFrame,
    layer: int,
    title: str,
) -> Figure:
    """Above: shares at the verdict's layer, and at every layer. Below: by place.

    Filled: Shapley share with its 95% interval over prompts. Arrows: change undone alone in the
    after-model (right) and made alone in the base (left). Grey (null): 5th to 95th percentile of
    random moves of the same size. Below: share restored by the base's weights or states at one
    place alone (and removed by the after-model's, in the base). Grey places: random edits of the
    same size do as much, or the edit works one way only.
    """
    parts = [_grid(weights), _grid(states)]
    columns = max(len(names) for _, names in parts)
    rows = max((len(names) for names, _ in parts), default=1)
    figure = new_figure(9.6, 3.5 + 0.34 * rows + 0.7)
    halves: Any = figure.subfigures(2, 1, height_ratios=(3.1, 0.34 * rows + 1.2))
    above, below = halves
    left, right = above.subplots(1, 2, width_ratios=(1.35, 1))
    _at_layer(left, shares[shares["layer"] == layer], layer)
    _by_layer(right, shares, stitching)
    left.set_title(title)
    above.legend(handles=_legend(), loc="outside lower left", ncols=6, handletextpad=0.3)
    widths = [len(names) + 0.14 * max(map(len, rows), default=1) for rows, names in parts]
    grid = below.subplots(1, 2, width_ratios=widths)
    image = None
    titles = ("weights put back", "states put back")
    for axes, table, name in zip(grid, (weights, states), titles, strict=True):
        image = _places(axes, table, numbers=columns <= MOST_COLUMNS_WITH_NUMBERS) or image
        axes.set_title(f"Restored (removed) by {name}", fontsize=9)
    if image is not None:
        note = "grey: as random edits,\nor one way only" if "p" in weights else "grey: unclear"
        below.colorbar(image, ax=grid, shrink=0.9, extend="both").set_label(
            f"share restored\n({note})", fontsize=8
        )
    return figure


def _at_layer(axes: Axes, shares: pd.DataFrame, layer: int) -> None:
    here = shares.iloc[::-1].reset_index(drop=True)
    for place, row in here.iterrows():
        y, colour = int(str(place)), COLOURS[row["player"]]
        if np.isfinite(row["control_high"]):
            low, high = row["control_low"], row["control_high"]
            axes.barh(y, high - low, left=low, color=NULL, height=0.72)
        axes.hlines(y, row["share_low"], row["share_high"], color=colour, lw=2)
        axes.plot(row["share"], y, MARKERS[row["player"]], color=colour, ms=6)
        axes.plot(row["restored"], y + 0.24, ">", color=colour, ms=3.5, alpha=0.7)
        axes.plot(row["removed"], y - 0.24, "<", color=colour, ms=3.5, alpha=0.7)
    for value in (0, 1):
        axes.axvline(value, color=FAINT, lw=1, zorder=0)
    axes.set_yticks(range(len(here)), list(here["player"]))
    axes.set_ylim(-0.6, len(here) - 0.4)
    axes.set_xlabel(f"share of the loss, after layer {layer}")


def _by_layer(axes: Axes, shares: pd.DataFrame, stitching: pd.DataFrame) -> None:
    for value in (0, 1):
        axes.axhline(value, color=FAINT, lw=1, zorder=0)
    for player, rows in shares.groupby("player", sort=False):
        name = str(player)
        axes.fill_between(
            rows["layer"], rows["share_low"], rows["share_high"], color=COLOURS[name],
            alpha=0.12, lw=0,
        )  # fmt: skip
        axes.plot(
            rows["layer"], rows["share"], MARKERS[name] + "-", color=COLOURS[name], ms=4, lw=1.2
        )
    axes.plot(
        stitching["layer"], stitching["routing"], color=COLOURS["routing"], lw=1.2,
        ls=(0, (2, 1.5)),
    )  # fmt: skip
    layer_ticks(axes, _apart(sorted(set(shares["layer"]))))
    axes.set_xlabel("layer")
    axes.set_ylabel("share of the loss")


def _apart(layers: list[int]) -> list[int]:
    """The layers whose names do not touch that of the layer before; always the first one."""
    least, found = (layers[-1] - layers[0]) / MOST_COLUMNS_NAMED, layers[:1]
    for layer in layers[1:]:
        if layer - found[-1] >= least:
            found.append(layer)
    return found


def _grid(table: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Names of the rows with an effect at some layer, and names of the layers."""
    drawn = _drawn(table)
    columns = list(dict.fromkeys(drawn["column"]))
    columns.sort(key=lambda name: (name == OUTSIDE, int(name) if name != OUTSIDE else 0))
    return list(dict.fromkeys(drawn["row"])), columns


def _drawn(table: pd.DataFrame) -> pd.DataFrame:
    component = table["component"].str.replace("_", " ")
    position = table["position"].fillna("").astype(str)
    stream = table["component"] == "residual_out"
    named = position.where(position != "all", "all tokens").str.replace("_", " ")
    row = named.where(stream, component)
    column = table["layer"].astype("Int64").astype(object).where(table["layer"].notna(), OUTSIDE)
    labelled = table.assign(row=row, column=column.astype(str))
    least = 0.005 * labelled["effect"].abs().max()  # would show 0.00 at every layer
    return labelled[labelled.groupby("row")["effect"].transform(lambda e: e.abs().max()) > least]


def _places(axes: Axes, table: pd.DataFrame, *, numbers: bool) -> AxesImage | None:
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, Normalize

    rows, columns = _grid(table)
    if not rows:
        say(axes, "nothing changed here")
        return None
    values = np.full((2, len(rows), len(columns)), np.nan)
    clear = np.zeros((len(rows), len(columns)), dtype=bool)
    for _, cell in _drawn(table).iterrows():
        at = rows.index(cell["row"]), columns.index(cell["column"])
        values[:, *at] = cell["fraction"], cell["removed"]
        clear[at] = cell["stands_out"]
    colours, scale = colormaps["PuOr_r"], Normalize(-1, 1)
    flat = np.ma.masked_invalid(np.where(np.isnan(values[0]), np.nan, 0.0))
    axes.imshow(flat, cmap=ListedColormap([NULL]), aspect="auto")
    shown = np.ma.masked_where(~clear, values[0])
    image = axes.imshow(shown, cmap=colours, norm=scale, aspect="auto")
    for (i, j), value in np.ndenumerate(values[0]) if numbers else ():
        if np.isfinite(value):
            colour = readable_on(colours(scale(value))) if clear[i, j] else MUTED
            text = f"{decimal(value)} ({decimal(values[1, i, j])})"
            axes.text(j, i, text, ha="center", va="center", fontsize=7, color=colour)
    every = max(1, -(-len(columns) // MOST_COLUMNS_NAMED))
    axes.set_xticks(range(0, len(columns), every), columns[::every])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("layer")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def _legend() -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = {"o": "share", ">": "undone alone", "<": "done alone"}
    lines: list[Artist] = [
        Line2D([], [], color=MUTED, marker=mark, ls="", ms=5, label=label)
        for mark, label in marks.items()
    ]
    dashed = Line2D([], [], color=COLOURS["routing"], ls=(0, (2, 1.5)), label="routing, stitched")
    return [*lines, Patch(color=NULL, label="random moves of the same size, 5–95%"), dashed]
