r"""Cosines between the directions of several labels, each with its interval, null and p-value.

A plain cosine between two mean differences shrinks with the noise in both, so a small one may be a
large one measured badly; and two directions that share one set of negative prompts have cosine .5
when there is nothing there at all. Here the inner products are cross-fitted
(:mod:`interp.crossfit`), a cosine is undefined where a direction is not there, and p-values come
from permuting labels, twins together, with the max-T correction over layers and pairs (Westfall
and Young 1993): cells of a heatmap are far from independent.

What it does not show: a cosine is symmetric, leakage is not; and a direction that separates two
labels need not be one that the model reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.angle import angle_degrees, as_cosine, exists
from interp.contrast import Contrast
from interp.crossfit import class_means, inner_products
from interp.errors import InputError
from interp.intervals import Confidence, Estimates
from interp.permutation import permuted_weights, studentised_products

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Contrast",
    "CosineMap",
    "cosine_between",
    "cosine_map",
    "isotropic_null_sd",
    "plain_cosines",
]

Cells = Float[np.ndarray, "layer label label"]


@dataclass(frozen=True)
class CosineMap:
    """Cross-fitted cosines between labels' directions, at every layer.

    Cells are NaN where ``defined`` is false, except for the p-values: these test whether the inner
    product is zero, which can be asked of noise too. On the diagonal values are 1 and p-values NaN.
    """

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    value: Cells
    low: Cells
    high: Cells
    null_low: Cells
    """Values from here to ``null_high`` are what unrelated directions read: the wider of the bands
    under permuted labels and of Student's for perpendicular directions."""
    null_high: Cells
    p: Cells
    p_corrected: Cells
    """Family-wise over all layers and pairs: single-step max-T, and where both directions exist no
    less than the Šidák-corrected p-value of Student's test."""
    defined: Bool[np.ndarray, "layer label label"]
    reliability: Float[np.ndarray, "layer label"]
    """Share of the squared length that is no noise: the cosine expected with the same direction
    from as many other prompts. About 0 where there is no direction."""
    n: tuple[int, ...]
    """Prompts on the smaller side of each label's contrast."""

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer and ordered pair of labels."""
        import pandas as pd

        layer, a, b = (index.ravel() for index in np.indices(self.value.shape))
        names, sizes = np.array(self.labels, dtype=object), np.array(self.n)
        columns = {
            "layer": np.array(self.layers)[layer],
            "label_a": names[a],
            "label_b": names[b],
            "value": self.value.ravel(),
            "low": self.low.ravel(),
            "high": self.high.ravel(),
            "n": np.minimum(sizes[a], sizes[b]),
            "null_low": self.null_low.ravel(),
            "null_high": self.null_high.ravel(),
            "p": self.p.ravel(),
            "p_corrected": self.p_corrected.ravel(),
            "defined": self.defined.ravel(),
        }
        return pd.DataFrame(columns)


def cosine_between(a: Contrast, b: Contrast, *, level: float = 0.95) -> Estimates:
    """Cross-fitted cosine between two contrasts of different prompts, per layer.

    The null band is that of parallel directions (1 down to the one-sided bound), as for a rotation:
    a value inside it cannot be told from the same direction.

    Raises:
        InputError: contrasts of different layers or widths.
    """
    return _cosine(a, b, level)[0]


def cosine_map(
    contrasts: Mapping[str, Contrast],
    *,
    layers: Sequence[int] | None = None,
    permutations: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> CosineMap:
    """Cosines between the directions of all labels.

    Args:
        contrasts: by label; of different prompts (:func:`interp.directions.disjoint_controls`).
        layers: names of the layers; 0, 1, … by default.
        permutations: labellings drawn, the observed one included; p is at least one over it.
        seed: of the permutations.
        level: coverage of the intervals.

    Raises:
        InputError: fewer than two labels, contrasts of different layers or widths.
    """
    labels, k = tuple(contrasts), len(contrasts)
    if k < 2:
        raise InputError(f"{k} label; a map of cosines needs at least two")
    _warn_of_shared_rows(contrasts)
    depth = next(iter(contrasts.values())).positive.shape[1]
    names = tuple(range(depth)) if layers is None else tuple(layers)
    if len(names) != depth:
        raise InputError(f"{len(names)} layer names for {depth} layers")

    sizes = [min(len(c.positive), len(c.negative)) for c in contrasts.values()]
    rng = np.random.default_rng(seed)
    weights = {label: permuted_weights(contrasts[label], permutations, rng) for label in labels}
    pairs = list(combinations(range(k), 2))
    statistics = np.empty((permutations, depth, len(pairs)))
    cells = {
        name: np.full((depth, k, k), np.nan)
        for name in ("value", "low", "high", "null_low", "null_high", "p", "p_corrected")
    }
    defined = np.zeros((depth, k, k), dtype=bool)
    reliability = np.empty((depth, k))

    for index, (i, j) in enumerate(pairs):
        a, b = contrasts[labels[i]], contrasts[labels[j]]
        cosine, there, reliable, lengths = _cosine(a, b, level)
        statistics[:, :, index], error = studentised_products(
            a, b, weights[labels[i]], weights[labels[j]]
        )
        drawn = np.quantile(np.abs(statistics[:, :, index]), level, axis=0)
        limit = Confidence(level, min(sizes[i], sizes[j])).two_sided
        band = np.maximum(drawn, limit) * error / lengths
        reliability[:, [i, j]] = reliable
        for x, y in ((i, j), (j, i)):
            cells["value"][:, x, y] = cosine.value
            cells["low"][:, x, y] = cosine.low
            cells["high"][:, x, y] = cosine.high
            cells["null_low"][:, x, y] = -band
            cells["null_high"][:, x, y] = band
            defined[:, x, y] = cosine.defined
        for x, here in zip((i, j), there, strict=True):
            defined[:, x, x] = here
            for name in ("value", "low", "high"):
                cells[name][:, x, x] = np.where(here, 1.0, np.nan)

    both = np.stack([defined[:, i, j] for i, j in pairs], axis=-1)
    smallest = np.array([min(sizes[i], sizes[j]) for i, j in pairs])
    p, p_corrected = _p_values(statistics, both, smallest)
    for index, (i, j) in enumerate(pairs):
        cells["p"][:, i, j] = cells["p"][:, j, i] = p[:, index]
        cells["p_corrected"][:, i, j] = cells["p_corrected"][:, j, i] = p_corrected[:, index]
    return CosineMap(
        labels=labels,
        layers=names,
        **cells,
        defined=defined,
        reliability=reliability,
        n=tuple(sizes),
    )


def isotropic_null_sd(d_model: int) -> float:
    """Standard deviation of the cosine of two random directions, 1/√d.

    A lower bound on the null: activations fill few of their dimensions, and the cosine of two
    directions drawn from *their* covariance varies by the root of one over the effective number.
    """
    return float(1.0 / np.sqrt(d_model))


def plain_cosines(
    vectors: Float[np.ndarray, "label layer d_model"],
) -> Float[np.ndarray, "layer label label"]:
    """Cosines of the vectors as they are, noise included; see the module for what they hide."""
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.einsum("ald,bld->lab", unit, unit)


def _cosine(
    a: Contrast, b: Contrast, level: float
) -> tuple[Estimates, tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Cosine, which of the directions exist, their reliabilities, product of their lengths."""
    if a.positive.shape[1:] != b.positive.shape[1:]:
        raise InputError(
            f"contrasts have (layer, d_model) = {a.positive.shape[1:]} and {b.positive.shape[1:]}; "
            "collect both from the same model and layers"
        )
    means = class_means(
        np.concatenate([a.states, b.states]),
        np.concatenate([a.classes, b.classes + 2]),
        np.concatenate([a.units, b.units + a.units.max() + 1]),
        np.array([[1, -1, 0, 0], [0, 0, 1, -1]]),
    )
    products = inner_products(means, [(0, 0), (1, 1), (0, 1)])
    confidence = Confidence(level, means.n)
    cosine = as_cosine(angle_degrees(products, confidence))
    there = (exists(products, 0, confidence)[1], exists(products, 1, confidence)[1])
    plain = np.maximum(products.plain[:, :2], np.finfo(float).tiny)
    lengths = np.sqrt(np.prod(np.maximum(products.value[:, :2], 0.0), axis=1))
    lengths = np.where(cosine.defined, lengths, np.nan)
    return cosine, there, products.value[:, :2] / plain, lengths


def _p_values(
    statistics: Float[np.ndarray, "draw layer pair"],
    defined: Bool[np.ndarray, "layer pair"],
    n: Int[np.ndarray, " pair"],
) -> tuple[Float[np.ndarray, "layer pair"], Float[np.ndarray, "layer pair"]]:
    """P-values per cell and family-wise over all cells.

    Permuted labels leave noise times noise, whose studentised tails are thinner than Student's.
    Where both directions exist a perpendicular pair has Student's tails, and permutations alone
    would reject it at .13 to .17 for .05 (n = 24 and 100): the larger p-value holds there.
    """
    from scipy.special import stdtr

    drawn = np.abs(statistics)
    observed = drawn[0]
    p = (drawn >= observed).mean(axis=0)
    p_corrected = (drawn.max(axis=(1, 2))[:, None, None] >= observed).mean(axis=0)
    student = 2.0 * stdtr(n - 1.0, -observed)
    sidak = -np.expm1(observed.size * np.log1p(-np.minimum(student, 1 - 1e-15)))
    return (
        np.where(defined, np.maximum(p, student), p),
        np.where(defined, np.maximum(p_corrected, sidak), p_corrected),
    )


def _warn_of_shared_rows(contrasts: Mapping[str, Contrast]) -> None:
    rows = {
        label: {row.tobytes() for row in contrast.states[:, -1]}
        for label, contrast in contrasts.items()
    }
    for a, b in combinations(rows, 2):
        if shared := len(rows[a] & rows[b]):
            warnings.warn(
                f"{a!r} and {b!r} share {shared} rows: their noise is shared, and so their cosine "
                "is not the directions' alone; split the common prompts with disjoint_controls",
                stacklevel=3,
            )
