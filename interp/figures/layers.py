"""Similarities and rotations by layer, each with its null band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from textwrap import wrap
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import InputError
from interp.figures.style import (
    BLUE,
    FAINT,
    MUTED,
    NULL,
    VERMILLION,
    layer_ticks,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interp.similarity import Rotation, SimilarityMap

MOST_PANELS = 12
COLUMNS = 4
NAMES = {
    "angle_degrees": "rotation (degrees)",
    "cosine": "cosine, before and after",
    "gain": "gain (× before)",
    "offset": "offset (lengths of the direction)",
    "offset_orthogonal": "orthogonal offset (lengths)",
}
UNCHANGED = {"angle_degrees": 0.0, "cosine": 1.0, "gain": 1.0}


@styled
def similarity_by_layer_figure(
    similarity: SimilarityMap, pairs: Sequence[tuple[str, str]] | None = None
) -> Figure:
    """A panel per pair of labels: values with intervals, the null band, random directions.

    A cross marks layers where a direction does not exist.

    Args:
        similarity: the map.
        pairs: of labels; by default all pairs, or the first label with each other label if there
            are more than twelve pairs.

    Raises:
        InputError: a label that is not in the map.
    """
    names = similarity.labels
    every = list(combinations(names, 2))
    if pairs is None:
        pairs = every if len(every) <= MOST_PANELS else [pair for pair in every if names[0] in pair]
    if unknown := {label for pair in pairs for label in pair} - set(names):
        raise InputError(f"no label {sorted(unknown)} in the map; there are {', '.join(names)}")
    figure, grid = _panels(len(pairs), similarity.measure)
    layers = np.array(similarity.layers, dtype=float)
    for axes, (a, b) in zip(grid, pairs, strict=False):
        cell = (slice(None), names.index(a), names.index(b))
        draw_null(axes, layers, similarity.null_low[cell], similarity.null_high[cell])
        for bound, line, name in (
            (similarity.covariance_matched, "--", "random, same covariance"),
            (similarity.isotropic, ":", "random, isotropic"),
        ):
            if np.isfinite(bound[cell]).any():
                axes.plot(layers, bound[cell], line, color=MUTED, lw=1, label=name)
        axes.axhline(0, color=FAINT, lw=1)
        draw_by_layer(
            axes, layers, similarity.value[cell], similarity.low[cell], similarity.high[cell],
            similarity.defined[cell], foot=0.0, colour=BLUE,
        )  # fmt: skip
        axes.set_title(f"{a} – {b}".replace("_", " "), fontsize=9)
        layer_ticks(axes, similarity.layers)
    _legend(figure, grid)
    return figure


@styled
def rotation_by_layer_figure(
    rotations: Mapping[str, Rotation], quantity: str = "angle_degrees"
) -> Figure:
    """A panel per label: the rotation, gain or offset of its direction at every layer.

    Args:
        rotations: by label.
        quantity: one of :data:`interp.similarity.rotations.QUANTITIES`.

    Raises:
        InputError: no rotations, or an unknown quantity.
    """
    if not rotations or quantity not in NAMES:
        raise InputError(
            f"{quantity!r} of {len(rotations)} rotations; give one at least, and one of "
            + ", ".join(NAMES)
        )
    figure, grid = _panels(len(rotations), NAMES[quantity])
    for axes, (label, rotation) in zip(grid, rotations.items(), strict=False):
        layers = np.array(rotation.layers, dtype=float)
        estimates = getattr(rotation, quantity)
        draw_null(axes, layers, estimates.null_low, estimates.null_high)
        unchanged = UNCHANGED.get(quantity, 0.0)
        axes.axhline(unchanged, color=FAINT, lw=1)
        draw_by_layer(
            axes, layers, estimates.value, estimates.low, estimates.high, estimates.defined,
            foot=unchanged, colour=VERMILLION,
        )  # fmt: skip
        axes.set_title(label.replace("_", " "), fontsize=9)
        layer_ticks(axes, rotation.layers)
    reasons = {rotation.undefined for rotation in rotations.values() if rotation.undefined}
    if reasons and quantity not in ("angle_degrees", "cosine"):
        words = wrap("Undefined: " + "; ".join(sorted(reasons)), int(13 * figure.get_figwidth()))
        figure.suptitle("\n".join(words), fontsize=8)
    _legend(figure, grid)
    return figure


def _panels(count: int, label: str) -> tuple[Figure, list[Axes]]:
    columns = min(count, COLUMNS)
    lines = -(-count // columns)
    figure = new_figure(2.3 * columns + 0.7, 1.9 * lines + 0.7)
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for place, axes in enumerate(grid.flat):
        axes.use_sticky_edges = False  # room around the bands
        axes.set_visible(place < count)
        if place + columns >= count:
            axes.set_xlabel("layer")
            axes.tick_params(labelbottom=True)
    figure.supylabel(label, fontsize=9)
    return figure, list(grid.flat[:count])


def draw_null(axes: Axes, layers: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """The null band by layer."""
    width = np.diff(layers).min() if len(layers) > 1 else 1.0
    axes.bar(layers, high - low, width, low, color=NULL, lw=0, zorder=0, label="null")


def draw_by_layer(
    axes: Axes,
    layers: np.ndarray,
    value: Float[np.ndarray, " layer"],
    low: Float[np.ndarray, " layer"],
    high: Float[np.ndarray, " layer"],
    defined: Bool[np.ndarray, " layer"],
    *,
    foot: float,
    colour: str,
    marker: str = "o",
    label: str = "value and interval",
) -> None:
    """Values with their intervals by layer; a cross at height ``foot`` marks undefined ones."""
    value = np.where(defined, value, np.nan)
    reach = np.abs(np.stack([value - low, high - value]))
    axes.errorbar(
        layers, value, yerr=np.nan_to_num(reach), fmt=f"{marker}-", color=colour, ms=3.5, lw=1.2,
        label=label,
    )  # fmt: skip
    axes.plot(layers[~defined], np.full((~defined).sum(), foot), "x", color=colour, ms=6)


def _legend(figure: Figure, grid: list[Axes]) -> None:
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
