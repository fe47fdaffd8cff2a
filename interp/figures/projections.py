"""States in one dimension (held-out projections) and in two, with their scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from interp.errors import InputError
from interp.figures.style import (
    BLUE,
    FAINT,
    LABEL_COLOURS,
    LABEL_MARKERS,
    MUTED,
    VERMILLION,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interp.directions import Projections
    from interp.similarity import StateMap

BINS = 24


@styled
def projection_figure(projections: Mapping[str, Projections], layer: int | None = None) -> Figure:
    """Positives and negatives along their label's direction, with AUC and numbers of prompts.

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
        # Filled and outlined: distinct without colours.
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


@styled
def state_map_figure(drawn: StateMap) -> Figure:
    """PCA, and UMAP if it was computed, with the neighbour-agreement scores below."""
    panels = 1 if drawn.umap is None else 2
    figure = new_figure(3.9 * panels + 1.6, 4.0)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    _scatter(grid[0], drawn, drawn.pca)
    grid[0].set_xlabel(f"component 1 ({drawn.explained[0]:.0%} of variance)")
    grid[0].set_ylabel(f"component 2 ({drawn.explained[1]:.0%})")
    grid[0].set_title("PCA")
    if drawn.umap is not None:
        _scatter(grid[1], drawn, drawn.umap)
        grid[1].set_title("UMAP (distances have no meaning)")
        grid[1].set_xticks([])
        grid[1].set_yticks([])
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center")
    named = {"labels permuted": "labels permuted (95th percentile)"}
    numbers = " · ".join(
        f"{named.get(name, name)} {share:.0%}" for name, share in drawn.agreement.items()
    )
    figure.supxlabel(
        f"of {drawn.neighbours} nearest neighbours with the same label: {numbers}",
        fontsize=7.5,
        color=MUTED,
    )
    return figure


def _scatter(axes: Axes, drawn: StateMap, points: np.ndarray) -> None:
    labels = np.array(drawn.labels)
    for place, label in enumerate(dict.fromkeys(drawn.labels)):
        chosen = points[labels == label]
        axes.scatter(
            chosen[:, 0], chosen[:, 1], s=14, alpha=0.75, lw=0, label=label.replace("_", " "),
            color=LABEL_COLOURS[place % len(LABEL_COLOURS)],
            marker=LABEL_MARKERS[place % len(LABEL_MARKERS)],
        )  # fmt: skip
