"""Effects of patched states or weights: heatmaps of cells, and shares of stitched models.

A cell is coloured only if its effect is significant. With controls, its effect must exceed the
random moves of *all* cells (max-T). Without controls, the interval over prompts must exclude zero:
this shows that the effect exists, not that it is specific.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.figures.heatmap import draw_cells
from interp.figures.style import (
    BLUE,
    FAINT,
    VERMILLION,
    layer_ticks,
    legend_above,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from interp.patching import Cell, Effects, Stitching

MOST_NUMBERS = 160
OUTSIDE = "outside"


@styled
def patching_figure(
    effects: Effects,
    *,
    labels: Mapping[str, str] | None = None,
    level: float = 0.95,
    groups: Sequence[object] | None = None,
) -> Figure:
    """Share of the gap that each cell closes, by layer; the effect itself if the gap is zero.

    Rows are positions, with a panel per component. If cells are heads, rows are heads, with a panel
    per position. If weights were patched, rows are the modules that differ between the models.

    Args:
        effects: from ``patch``, ``attribute`` or ``patch_weights``.
        labels: text for positions, as ``runs.labels()`` gives the template's tokens.
        level: cells inside the null at this level are hatched grey.
        groups: prompts of one group are drawn together.
    """
    cells, quantity, grey = patching_cells(effects, labels=labels, level=level, groups=groups)
    values = cells["value"].to_numpy()
    panels, rows, columns = (list(cells[part].unique()) for part in ("panel", "row", "column"))
    columns.sort(key=lambda name: (name == OUTSIDE, int(name) if name != OUTSIDE else 0))
    limit = 1.0 if quantity == "fraction" else float(np.abs(values).max()) or 1.0
    side = 0.085 * max(map(len, rows)) + 0.2
    figure = new_figure(
        (0.52 * len(columns) + 0.3) * len(panels) + side + 1.5, max(0.3 * len(rows) + 1.0, 2.3)
    )
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, panel in zip(grid, panels, strict=True):
        wide = cells[cells["panel"] == panel].pivot(index="row", columns="column")
        drawn, outside_null = (
            wide[part].reindex(index=rows, columns=columns).to_numpy(dtype=float)
            for part in ("value", "clear")
        )
        image = draw_cells(
            axes, drawn, outside_null > 0, np.isfinite(drawn), limits=(-limit, limit),
            text="{:.2f}".format if len(values) <= MOST_NUMBERS else None, aspect="auto",
        )  # fmt: skip
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel("layer")
        axes.set_title(panel)
    name = "share of the gap closed" if quantity == "fraction" else "effect on the readout"
    figure.colorbar(
        image,
        ax=grid,
        shrink=0.9,
        extend="both" if np.abs(values).max() > 1.05 * limit else "neither",
        label=f"{name}\n(hatched: {grey})",
    )
    return figure


def patching_cells(
    effects: Effects,
    *,
    labels: Mapping[str, str] | None = None,
    level: float = 0.95,
    groups: Sequence[object] | None = None,
) -> tuple[pd.DataFrame, str, str]:
    """What :func:`patching_figure` draws: a table, the quantity, and what grey cells mean.

    The table has ``panel``, ``row``, ``column``, ``value``, ``low``, ``high``, ``n`` and ``clear``.
    """
    import pandas as pd

    table = effects.to_dataframe(level=level, groups=groups)
    quantity = "fraction" if table["defined"].all() else "effect"
    if effects.controls is None:
        clear = (table[f"{quantity}_low"] > 0) | (table[f"{quantity}_high"] < 0)
        grey = "interval contains 0"
    else:
        # 1 - .95 is a rounding error above 1 / 20, but other levels may lie below.
        clear = table["p_family_wise"] <= 1 - level + 1e-9
        grey = "inside the null"
    kept = [i for i, cell in enumerate(effects.cells) if _is_drawn(cell, effects)]
    parts = ["panel", "row", "column"]
    cells = pd.DataFrame([_place(effects.cells[i], labels or {}) for i in kept], columns=parts)
    names = {quantity: "value", f"{quantity}_low": "low", f"{quantity}_high": "high", "n": "n"}
    numbers = table.assign(clear=clear)[[*names, "clear"]].rename(columns=names)
    return cells.join(numbers.iloc[kept].reset_index(drop=True)), quantity, grey


@styled
def stitching_figure(
    stitching: Stitching, *, level: float = 0.95, groups: Sequence[object] | None = None
) -> Figure:
    """Shares of representation and routing by layer, with intervals over prompts; they sum to 1."""
    table = stitching.to_dataframe(level=level, groups=groups)
    figure = new_figure(0.55 * len(table) + 3.2, 2.7)
    axes = figure.subplots()
    for line in (0.0, 1.0):
        axes.axhline(line, color=FAINT, lw=1, zorder=0)
    for name, colour, marker, aside in (
        ("representation", BLUE, "o", -0.04),
        ("routing", VERMILLION, "s", 0.04),
    ):
        value, low, high = (table[f"{name}{part}"].to_numpy() for part in ("", "_low", "_high"))
        axes.errorbar(
            table["layer"] + aside, value, yerr=np.abs([value - low, high - value]), color=colour,
            fmt=f"{marker}-", ms=4, lw=1.3, label=name,
        )  # fmt: skip
    layer_ticks(axes, stitching.layers)
    axes.set_xlabel("layer at which the models are stitched")
    axes.set_ylabel("share of the change")
    legend_above(axes)
    return figure


def _is_drawn(cell: Cell, effects: Effects) -> bool:
    """Exclude a module whose weights are equal in both models in every layer."""
    moved = (effects.patched != effects.target).any(axis=1)
    alike = [other.component == cell.component for other in effects.cells]
    return cell.position is not None or not moved.any() or bool(moved[alike].any())


def _place(cell: Cell, labels: Mapping[str, str]) -> tuple[str, str, str]:
    """Panel, row and column of a cell."""
    column = OUTSIDE if cell.layer is None else str(cell.layer)
    component = cell.component.replace("_", " ")
    if cell.position is None:
        return "weights", component, column
    label = labels.get(cell.position, cell.position)
    position = label.replace("_", " ") if label == cell.position else f"‘{repr(label)[1:-1]}’"
    if cell.head is not None:
        return position, f"head {cell.head}", column
    return component, position, column
