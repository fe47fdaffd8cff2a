"""Maps of states in two dimensions, with the numbers that keep them honest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from interp.figures.style import LABEL_COLOURS, LABEL_MARKERS, MUTED, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interp.similarity import StateMap


@styled
def state_map_figure(drawn: StateMap) -> Figure:
    """PCA, and UMAP beside it where it was computed; under them what neighbours say."""
    panels = 1 if drawn.umap is None else 2
    figure = new_figure(3.9 * panels + 1.6, 4.0)
    grid = figure.subplots(1, panels, squeeze=False)[0]
    _scatter(grid[0], drawn, drawn.pca)
    grid[0].set_xlabel(f"component 1 ({drawn.explained[0]:.0%} of variance)")
    grid[0].set_ylabel(f"component 2 ({drawn.explained[1]:.0%})")
    grid[0].set_title("PCA")
    if drawn.umap is not None:
        _scatter(grid[1], drawn, drawn.umap)
        grid[1].set_title("UMAP (distances mean nothing)")
        grid[1].set_xticks([])
        grid[1].set_yticks([])
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center")
    numbers = " · ".join(f"{name} {share:.0%}" for name, share in drawn.agreement.items())
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
