"""Distributions of held-out projections, a row per label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.figures.style import BLUE, FAINT, VERMILLION, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from interp.directions import Projections

BINS = 24


@styled
def projection_figure(projections: Mapping[str, Projections], layer: int | None = None) -> Figure:
    """Positives and negatives along their label's direction; AUC and numbers of prompts beside.

    Args:
        projections: by label; a label may be empty.
        layer: the name of one layer, by default the last.

    Raises:
        InputError: no projections, or a layer that they do not have.
    """
    if not projections:
        raise InputError("no projections to draw; give at least one label's")
    layers = next(iter(projections.values())).layers
    if layer is not None and layer not in layers:
        raise InputError(f"no projections at layer {layer}; there are {list(layers)}")
    place = len(layers) - 1 if layer is None else layers.index(layer)
    every = np.concatenate([each.value[:, place] for each in projections.values()])
    edges = np.linspace(every.min(), every.max(), BINS + 1)
    figure = new_figure(5.6, 0.75 * len(projections) + 1.0)
    grid = figure.subplots(len(projections), squeeze=False, sharex=True)[:, 0]
    for axes, (label, each) in zip(grid, projections.items(), strict=True):
        values = each.value[:, place]
        # Filled and outlined: told apart without colours as well.
        axes.hist(values[~each.positive], edges, density=True, color=BLUE, alpha=0.35,
                  label="negative")  # fmt: skip
        axes.hist(values[each.positive], edges, density=True, histtype="step", color=VERMILLION,
                  lw=1.6, label="positive")  # fmt: skip
        axes.axvline(0, color=FAINT, lw=1, zorder=0)
        sizes = f"{each.positive.sum()} + {(~each.positive).sum()} prompts"
        axes.text(1.01, 0.5, f"AUC {each.separation[place]:.2f}\n{sizes}", fontsize=8, va="center",
                  transform=axes.transAxes)  # fmt: skip
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylabel(label.replace("_", " "), rotation=0, ha="right", va="center")
    grid[-1].set_xlabel(f"projection on the direction of the other folds, layer {layers[place]}")
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper right", ncols=2)
    return figure
