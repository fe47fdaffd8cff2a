"""Heatmaps between labels: cells inside the null are hatched grey, undefined cells show a dash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Float

from interp.figures.style import FAINT, INK, MUTED, NULL, new_figure, styled
from interp.numbers import evenly_spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from interp.similarity import SimilarityMap

MOST_MULTIPLES = 12
COLUMNS = 4
GREY = "hatched: inside the null"
# Characters of a label per inch of its axis.
TO_AN_INCH = 11


def heatmap_figure(similarity: SimilarityMap, layers: Sequence[int] | None = None) -> Figure:
    """The map at these layers: one layer with a number in every cell, several as small multiples.

    Args:
        similarity: the map.
        layers: names of layers; all by default, or an even selection of more than twelve.

    Raises:
        InputError: a layer that is not in the map.
    """
    places = (
        evenly_spread(len(similarity.layers), MOST_MULTIPLES)
        if layers is None
        else [similarity.at(layer) for layer in layers]
    )
    return layer_heatmaps(
        similarity.value[places],
        similarity.clear[places],
        [similarity.layers[place] for place in places],
        [label.replace("_", " ") for label in similarity.labels],
        limits=similarity.limits,
        measure=similarity.measure,
        draws=similarity.draws,
        no_null=similarity.no_null,
    )


@styled
def layer_heatmaps(
    values: Float[np.ndarray, "layer label label"],
    clear: Bool[np.ndarray, "layer label label"],
    layers: Sequence[int],
    names: Sequence[str],
    *,
    limits: tuple[float, float] = (-1.0, 1.0),
    measure: str,
    draws: int = 0,
    no_null: str = "",
) -> Figure:
    """A heatmap per layer, with an empty diagonal; a single one has a number in every cell.

    Args:
        values: of each pair of labels.
        clear: which values lie outside their null.
        layers: names of the layers.
        names: of the labels.
        limits: the range of the measure, for the colour scale.
        measure: name of the values.
        draws: number of permutations of the null, if known.
        no_null: the reason why the null does not exist; then every defined cell is coloured.
    """
    k = len(names)
    alone = len(layers) == 1
    columns = min(len(layers), COLUMNS)
    lines = -(-len(layers) // columns)
    side = max(2.0, 0.62 * k + 1.3) if alone else max(1.8, 0.28 * k + 0.9)
    figure = new_figure(side * columns + 1.5, side * lines + (1.1 if no_null else 0.6))
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(layers) :]:
        axes.set_visible(False)
    colours = "PuOr_r" if limits[0] < 0 else "YlOrBr"
    # The similarity of a label with itself carries no information.
    shown = ~np.eye(k, dtype=bool)
    text = "{:.2f}".format if alone else None
    for position, (axes, layer) in enumerate(zip(grid.flat, layers, strict=False)):
        image = draw_cells(
            axes,
            values[position],
            clear[position],
            shown,
            colours=colours,
            limits=limits,
            text=text,
        )
        axes.set_xticks(range(k), names, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(k), names)
        axes.set_title(f"layer {layer}")
        if position % columns:
            axes.set_yticklabels([])
        if position + columns < len(layers):
            axes.set_xticklabels([])
    null = f"{GREY}, {draws:,} permutations" if draws else GREY
    grey = "no null; –: undefined" if no_null else null
    label = f"{measure}\n({grey}; diagonal: left out)"
    width, height = figure.get_size_inches()
    figure.colorbar(image, ax=grid, shrink=0.75, label=_wrapped(label, height))
    if no_null:
        figure.supxlabel(_wrapped(f"Without a null: {no_null}.", width), fontsize=8)
    return figure


def _wrapped(text: str, inches: float) -> str:
    lines = (wrap(line, max(20, int(inches * TO_AN_INCH))) for line in text.splitlines())
    return "\n".join(part for line in lines for part in line)


def draw_cells(
    axes: Axes,
    values: Float[np.ndarray, "row column"],
    clear: Bool[np.ndarray, "row column"],
    shown: Bool[np.ndarray, "row column"],
    *,
    colours: str = "PuOr_r",
    limits: tuple[float, float] = (-1.0, 1.0),
    text: Callable[[float], str] | None = None,
    aspect: Literal["equal", "auto"] = "equal",
) -> AxesImage:
    """One heatmap: cells outside their null are coloured, inside it hatched, undefined grey.

    Args:
        axes: to draw into.
        values: NaN where undefined.
        clear: which values lie outside their null.
        shown: which cells are drawn.
        colours: the name of a colour map.
        limits: the values at its ends.
        text: formats a cell's number; None: no numbers. An undefined cell shows a dash.
        aspect: of the cells.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap, Normalize
    from matplotlib.patches import Rectangle

    cmap, scale = colormaps[colours], Normalize(*limits)
    grey = np.ma.masked_where(~shown, np.zeros(values.shape))
    axes.imshow(grey, cmap=ListedColormap([NULL]), aspect=aspect)
    undefined = shown & ~np.isfinite(values)
    for i, j in np.argwhere(shown & ~clear & ~undefined):  # pale colours and grey alone look alike
        axes.add_patch(
            Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, lw=0, hatch="////", ec=FAINT)
        )
    coloured = np.ma.masked_where(~(clear & shown), values)
    image = axes.imshow(coloured, cmap=cmap, norm=scale, aspect=aspect)
    if text is None:
        for i, j in np.argwhere(undefined):
            axes.text(j, i, "–", ha="center", va="center", fontsize=6, color=MUTED)
    else:
        for i, j in np.argwhere(shown):
            number = "–" if undefined[i, j] else text(values[i, j])
            # Remove the minus sign of a zero.
            number = number.replace("-0.00", "0.00").replace("-", "−")
            colour = readable_on(cmap(scale(values[i, j]))) if clear[i, j] else MUTED
            axes.text(j, i, number, ha="center", va="center", fontsize=8, color=colour)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return image


def readable_on(colour: tuple[float, ...]) -> str:
    """White or dark text, by the luminance of the background (ITU-R BT.709)."""
    luminance = float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722)))
    return "white" if luminance < 0.45 else INK
