"""Heatmaps between labels: what lies inside its null is grey, what is undefined is a dash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from interp.figures.style import INK, MUTED, NULL, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from interp.similarity import SimilarityMap

MOST_MULTIPLES = 12
COLUMNS = 4
GREY = "grey: inside the null"


@styled
def heatmap_figure(similarity: SimilarityMap, layers: Sequence[int] | None = None) -> Figure:
    """The map at these layers: one with a number in every cell, several as small multiples.

    Args:
        similarity: the map.
        layers: names of layers; all by default, evenly picked where there are more than twelve.

    Raises:
        InputError: a layer that is not in the map.
    """
    places = (
        evenly_picked(len(similarity.layers))
        if layers is None
        else [similarity.at(layer) for layer in layers]
    )
    k = len(similarity.labels)
    names = [label.replace("_", " ") for label in similarity.labels]
    alone = len(places) == 1
    columns = min(len(places), COLUMNS)
    lines = -(-len(places) // columns)
    side = max(2.0, 0.62 * k + 1.3) if alone else max(1.8, 0.28 * k + 0.9)
    figure = new_figure(side * columns + 1.5, side * lines + 0.6)
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(places) :]:
        axes.set_visible(False)
    for position, (axes, place) in enumerate(zip(grid.flat, places, strict=False)):
        image = draw_cells(
            axes,
            similarity.value[place],
            similarity.outside_null[place],
            names,
            limits=similarity.limits,
            numbers=alone,
        )
        axes.set_title(f"layer {similarity.layers[place]}")
        if position % columns:
            axes.set_yticklabels([])
        if position + columns < len(places):
            axes.set_xticklabels([])
    figure.colorbar(image, ax=grid, shrink=0.75, label=f"{similarity.measure}\n({GREY})")
    return figure


def evenly_picked(depth: int, most: int = MOST_MULTIPLES) -> list[int]:
    """At most so many of ``depth`` places, first and last among them."""
    return sorted({round(place) for place in np.linspace(0, depth - 1, min(most, depth))})


def draw_cells(
    axes: Axes,
    values: Float[np.ndarray, "label label"],
    clear: Bool[np.ndarray, "label label"],
    names: Sequence[str],
    *,
    limits: tuple[float, float] = (-1.0, 1.0),
    numbers: bool,
) -> AxesImage:
    """One heatmap; colours for cells outside their null alone, none on the diagonal."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    colours = colormaps["PuOr_r" if limits[0] < 0 else "YlOrBr"]
    scale = Normalize(*limits)
    off = ~np.eye(len(names), dtype=bool)
    axes.set_facecolor(NULL)
    image = axes.imshow(np.ma.masked_where(~(clear & off), values), cmap=colours, norm=scale)
    # A label with itself says nothing.
    blank = np.ma.masked_where(off, np.ones(values.shape))
    axes.imshow(blank, cmap=colormaps["gray"], vmin=0, vmax=1)
    if numbers:
        for (i, j), value in np.ndenumerate(values):
            if off[i, j]:
                text = f"{value:.2f}" if np.isfinite(value) else "–"
                colour = readable_on(colours(scale(value))) if clear[i, j] else MUTED
                axes.text(j, i, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def readable_on(colour: tuple[float, ...]) -> str:
    """White or ink, by the luminance of what lies beneath (ITU-R BT.709)."""
    luminance = float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722)))
    return "white" if luminance < 0.45 else INK
