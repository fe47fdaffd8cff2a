"""Cosines between the domains' directions before, and the rotation of each direction after.

Cells inside their null are grey; points inside it lie in the null's band.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.figures.leakage import title_of
from analyses.figures.style import CONTAINED, FAINT, PLAIN, domain_label, new_figure, say, styled
from analyses.runs import Arm, Headline, Run, headlines
from interp.figures import MOST_MULTIPLES, draw_by_layer, draw_cells, draw_null, layer_heatmaps
from interp.numbers import evenly_spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNIFICANT = 0.05
MOST_NUMBERED = 8  # layers with a number in every cell; more get a colour bar
NAMES = {"angle_degrees": "rotation (degrees)", "gain": "gain (× base)", "offset": "offset"}
UNCHANGED = {"angle_degrees": 0.0, "gain": 1.0, "offset": 0.0}


def null_of_rotation(tables: Run) -> str:
    """A description of the null band of a rotation in this run."""
    unchanged = "the value of an unchanged direction on these prompts"
    controls = sum(arm.control for arm in tables.record.arms)
    if not controls:
        return f"{unchanged}; the effect of harmless training is not in it (no control arm)"
    trained = "training on benign answers for as many steps as the longest plain arm"
    return f"{unchanged} and the effect of {trained} ({controls} control arm{'s'[: controls > 1]})"


def has_control(tables: Run) -> bool:
    """Whether the null of a rotation includes the effect of harmless training."""
    return any(arm.control for arm in tables.record.arms)


def outside_null(table: pd.DataFrame) -> pd.Series:
    """Whether each value lies outside its null; False where the value is undefined.

    The criterion is `p_corrected` < .05 where the table has that column (many cells at once). Else
    the whole interval must lie outside the null band, which may span the intervals of control arms.
    """
    if "p_corrected" in table:
        outside = table["p_corrected"] < SIGNIFICANT
    else:
        outside = (table["low"] > table["null_high"]) | (table["high"] < table["null_low"])
    return outside & table["defined"].astype(bool)


def _grid(table: pd.DataFrame, rows: list, columns: list, column: str, of: str) -> np.ndarray:
    wide = table.pivot(index=of, columns=column, values="value")
    return wide.reindex(index=rows, columns=columns).to_numpy(dtype=float)


def rotation_panel(axes: Axes, tables: Run, headline: Headline) -> None:
    """Degrees by domain and layer in the plain arm; grey inside the null, a dash if undefined."""
    table = tables.rotation
    if not table.empty:
        table = table[table["arm"] == headline.plain.name]
        table = table[table["quantity"] == "angle_degrees"]
    if table.empty:
        return say(axes, "no rotation was fitted")
    rows = [domain for domain in tables.record.domains if domain in set(table["domain"])]
    rows.sort(key=lambda domain: domain != headline.concept)
    layers = sorted(table["layer"].unique())
    degrees = _grid(table, rows, layers, "layer", "domain")
    rotated = _grid(table.assign(value=outside_null(table)), rows, layers, "layer", "domain") > 0
    scale = max(float(np.nanmax(degrees, initial=0)), 10.0)
    numbered = len(layers) <= MOST_NUMBERED
    drawn = draw_cells(
        axes, degrees, rotated, np.ones(degrees.shape, dtype=bool), colours="YlOrBr",
        limits=(0, scale), text="{:.0f}°".format if numbered else None, aspect="auto",
    )  # fmt: skip
    if not numbered:
        bar = axes.figure.colorbar(drawn, ax=axes, fraction=0.05, pad=0.03)
        bar.ax.set_title("°", fontsize=9)
    step = max(1, len(layers) // 8)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    names = [domain_label(domain) for domain in rows]
    axes.set_yticks(range(len(rows)), names)
    if headline.concept:
        axes.get_yticklabels()[0].set_fontweight("bold")
    if numbered:
        axes.set_xticks(np.arange(len(layers) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", lw=1.5)
    axes.tick_params(which="minor", length=0)
    null = "in null" if has_control(tables) else "noise"  # of sampling alone
    axes.set_xlabel(f"layer of {headline.plain.label} (hatched: {null}, –: undefined)")


@styled
def rotation_figure(tables: Run, quantity: str = "angle_degrees") -> Figure:
    """`quantity` by layer, one column per domain, one row per concept; the band is the null."""
    found = headlines(tables.record)
    domains = list(tables.record.domains)
    figure = new_figure(1.75 * len(domains) + 0.6, 2.0 * max(len(found), 1) + 0.8)
    table = tables.rotation
    table = table if table.empty else table[table["quantity"] == quantity]
    if table.empty:
        say(figure.subplots(), "no rotation was fitted")
        return figure
    grid = figure.subplots(len(found), len(domains), squeeze=False, sharex=True, sharey=True)
    for line, headline in zip(grid, found, strict=True):
        for axes, domain in zip(line, domains, strict=True):
            of_domain = table[table["domain"] == domain]
            for place, arm in enumerate(headline.shown):
                _rotation(axes, of_domain[of_domain["arm"] == arm.name], arm, place, quantity)
            axes.set_title(domain_label(domain), fontsize=9)
            if domain == headline.concept:
                axes.set_title(f"{domain_label(domain)} (target)", fontsize=9, color=PLAIN)
        line[0].set_ylabel(f"{title_of(headline)}\n{NAMES.get(quantity, quantity)}")
    for axes in grid[-1]:
        axes.set_xlabel("layer")
    handles, labels = grid[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=4)
    return figure


def _rotation(axes: Axes, rows: pd.DataFrame, arm: Arm, place: int, quantity: str) -> None:
    if rows.empty:
        return
    rows = rows.sort_values("layer")
    layers, value, low, high, null_low, null_high = (
        rows[name].to_numpy(dtype=float)
        for name in ("layer", "value", "low", "high", "null_low", "null_high")
    )
    unchanged = UNCHANGED.get(quantity, 0.0)
    if place == 0:
        draw_null(axes, layers, null_low, null_high)
        axes.axhline(unchanged, color=FAINT, lw=1)
    colour, marker = (CONTAINED, "D") if arm.retain else (PLAIN, "o")
    draw_by_layer(
        axes, layers + 0.12 * place, value, low, high, rows["defined"].to_numpy(dtype=bool),
        foot=unchanged, colour=colour, marker=marker, label="contained" if arm.retain else "plain",
    )  # fmt: skip
    axes.set_xticks(layers if len(layers) <= 8 else layers[:: len(layers) // 6])


def cosine_layer_figure(tables: Run, layer: int) -> Figure:
    """Cosines between domains' directions in the base model at one layer, numbers in the cells."""
    return _cosines(tables, [layer])


@styled
def cosine_figure(tables: Run) -> Figure:
    """The cosines at every layer; at twelve evenly spaced layers of deeper models."""
    if tables.cosine.empty:
        figure = new_figure(5, 2)
        say(figure.subplots(), "no directions were fitted")
        return figure
    layers = sorted(tables.cosine["layer"].unique())
    return _cosines(tables, [layers[place] for place in evenly_spread(len(layers), MOST_MULTIPLES)])


def _cosines(tables: Run, layers: list[int]) -> Figure:
    table = tables.cosine
    domains = [domain for domain in tables.record.domains if domain in set(table["domain_a"])]
    cosines, clear = (
        np.stack([_grid(rows, domains, domains, "domain_b", "domain_a") for rows in of_layers])
        for of_layers in (
            [values[values["layer"] == layer] for layer in layers]
            for values in (table, table.assign(value=outside_null(table)))
        )
    )
    names = [domain_label(domain) for domain in domains]
    return layer_heatmaps(cosines, clear > 0, layers, names, measure="cosine")
