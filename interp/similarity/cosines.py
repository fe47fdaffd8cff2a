r"""Cosines between the directions of several labels, each with its interval, null and p-value.

A plain cosine between two mean differences shrinks with the noise in both, so a small one may be a
large one measured badly; and two directions that share one set of negative prompts have cosine .5
when there is nothing there at all. Here the inner products are cross-fitted
(:mod:`interp.statistics.crossfit`), a cosine is undefined where a direction is not there, and
p-values come from permuting labels, twins together, with the max-T correction over layers and pairs
(Westfall and Young 1993): cells of a heatmap are far from independent.

For :math:`\cos\theta = c/\sqrt{ab}` with the cross-fitted products :math:`a = \langle v,v\rangle`,
:math:`b = \langle w,w\rangle`, :math:`c = \langle v,w\rangle`, the test of an angle is that of
:math:`c - \cos\theta\sqrt{ab} = 0`. Its variance has two parts. Noise that turns a direction out of
the plane counts with :math:`\sin^2\theta` and vanishes for parallel directions; noise times noise
remains there and is all that an angle near zero is judged by. Taking the variance at the observed
angle instead gives intervals that cover 100% near zero and are twice as long as need be.

What it does not show: a cosine is symmetric, leakage is not; and a direction that separates two
labels need not be one that the model reads.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError
from interp.similarity.maps import SimilarityMap, from_pairs
from interp.statistics import (
    Confidence,
    Contrast,
    Estimates,
    InnerProducts,
    Layers,
    Means,
    class_means,
    covariance_matched_overlaps,
    inner_products,
    isotropic_cosine,
    last_accepted,
    layer_names,
    permutation_p_values,
    permuted_weights,
    studentised_products,
)

__all__ = ["Contrast", "SimilarityMap", "cosine_between", "cosine_map", "plain_cosines"]


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
    measure: str = "cosine",
) -> SimilarityMap:
    """Cosines between the directions of all labels, cross-fitted.

    Its ``reliability`` is the share of a direction's squared length that is no noise: the cosine
    expected with the same direction from as many other prompts, about 0 where there is none. Its
    null band is the wider of those under permuted labels and of Student's for perpendicular
    directions; corrected p-values are single-step max-T, and where both directions exist no less
    than the Šidák-corrected p-value of Student's test.

    Args:
        contrasts: by label; of different prompts (:func:`interp.directions.disjoint_controls`).
            For whitened or causal cosines, :mod:`interp.similarity.metric` maps them to other
            coordinates.
        layers: names of the layers; 0, 1, … by default.
        permutations: labellings drawn, the observed one included; p is at least one over it.
        seed: of the permutations.
        level: coverage of the intervals.
        measure: the name of the values, where the contrasts are in other coordinates.

    Raises:
        InputError: fewer than two labels, contrasts of different layers or widths.
    """
    labels, k = tuple(contrasts), len(contrasts)
    if k < 2:
        raise InputError(f"{k} label; a map of cosines needs at least two")
    _warn_of_shared_rows(contrasts)
    depth, width = next(iter(contrasts.values())).positive.shape[1:]
    names = layer_names(layers, depth)

    sides, sizes = tuple(contrasts.values()), tuple(c.n for c in contrasts.values())
    rng = np.random.default_rng(seed)
    weights = [permuted_weights(contrast, permutations, rng) for contrast in sides]
    pairs = list(combinations(range(k), 2))
    smallest = np.array([min(sizes[i], sizes[j]) for i, j in pairs])
    cosines: dict[str, Any] = {}
    statistics, bands, reliability = [], [], np.empty((depth, k))
    there = np.empty((depth, k), dtype=bool)
    for (i, j), n in zip(pairs, smallest, strict=True):
        cosine, there[:, [i, j]], reliability[:, [i, j]], lengths = _cosine(
            sides[i], sides[j], level
        )
        drawn, error = studentised_products(sides[i], sides[j], weights[i], weights[j])
        beyond = np.quantile(np.abs(drawn), level, axis=0)
        bands.append(np.maximum(beyond, Confidence(level, n).two_sided) * error / lengths)
        statistics.append(drawn)
        for name in ("value", "low", "high", "defined"):
            cosines.setdefault(name, []).append(getattr(cosine, name))

    cosines = {name: np.stack(values, axis=-1) for name, values in cosines.items()}
    band, defined = np.stack(bands, axis=-1), cosines.pop("defined")
    p, p_corrected = _p_values(np.stack(statistics, axis=-1), defined, smallest)
    matched = covariance_matched_overlaps(sides, pairs, rng=rng)
    lasting = np.sqrt(np.clip(reliability, 0.0, 1.0))
    return SimilarityMap(
        measure=measure,
        labels=labels,
        layers=names,
        **from_pairs(pairs, np.where(there, 1.0, np.nan), **cosines),
        **from_pairs(pairs, there, defined=defined),
        **from_pairs(
            pairs,
            null_low=-band,
            null_high=band,
            p=p,
            p_corrected=p_corrected,
            isotropic=np.full(p.shape, isotropic_cosine(width, level)),
            covariance_matched=np.sqrt(np.quantile(matched, level, axis=0)),
        ),
        reliability=reliability,
        n=sizes,
        ceiling=lasting[:, :, None] * lasting[:, None, :],
    )


def plain_cosines(
    vectors: Float[np.ndarray, "label layer d_model"],
) -> Float[np.ndarray, "layer label label"]:
    """Cosines of the vectors as they are, noise included; see the module for what they hide."""
    with np.errstate(invalid="ignore", divide="ignore"):
        unit = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.einsum("ald,bld->lab", unit, unit)


def joint_means(
    a: Contrast, b: Contrast, vectors: Float[np.ndarray, "vector 4"], *, same_units: bool = False
) -> Means:
    """Weighted sums of the four class means (a +, a -, b +, b -).

    Args:
        a, b: contrasts of the same layers and width.
        vectors: the weight of each class mean in each vector.
        same_units: rows with the same unit in both are never separated; else all units differ.
    """
    return class_means(
        np.concatenate([a.states, b.states]),
        np.concatenate([a.classes, b.classes + 2]),
        np.concatenate([a.units, b.units + (0 if same_units else a.units.max() + 1)]),
        vectors,
    )


def exists(
    products: InnerProducts, index: int, confidence: Confidence
) -> tuple[Layers, np.ndarray]:
    """The squared length number ``index`` and whether its lower bound is above zero; else 1."""
    squared = products.value[:, index]
    variance = products.variance(*(0.0,) * index, 1.0)
    there = squared > confidence.two_sided * np.sqrt(variance)
    return np.where(there, squared, 1.0), there


def angle_degrees(products: InnerProducts, confidence: Confidence) -> Estimates:
    """Angle in degrees, undefined where either direction is not there.

    Args:
        products: ⟨v, v⟩, ⟨w, w⟩ and ⟨v, w⟩ as the first three products.
        confidence: level and number of prompts.

    Returns:
        The null band holds what two *parallel* directions with this noise would read: 0 up to the
        one-sided bound. It speaks of sampling alone.
    """
    (a, has_a), (b, has_b) = (exists(products, index, confidence) for index in (0, 1))
    scale, ratio = np.sqrt(a * b), np.sqrt(b / a)

    def weights(cosine: Layers) -> tuple[Layers | float, ...]:
        # The derivatives of c - cosine * sqrt(ab) by a, b and c.
        return (-cosine * ratio / 2, -cosine / ratio / 2, 1.0)

    observed = products.value[:, 2] / scale
    clipped = np.clip(observed, -1.0, 1.0)
    # Variance per squared length out of the plane. Where the observed angle is nothing but noise
    # that would be 0/0; half of the noise on both sides keeps the quotient steady, and gave the
    # nominal coverage in simulations (0 and 1 times the noise: 1 point less and more).
    lengths = products.plain[:, 0] / a + products.plain[:, 1] / b
    plain = (1 + clipped**2) * lengths / 2 - 2 * clipped * products.plain[:, 2] / scale
    at_observed = weights(clipped)
    turning = products.signal_variance(*at_observed) + products.noise_variance(*at_observed) / 2
    # Zero, up to rounding, only for a direction compared with itself: nothing turns it then.
    across = np.maximum((1 - clipped**2 + plain) / 2, np.finfo(float).eps)
    out_of_plane = np.maximum(turning, 0.0) / across

    def accepts(angle: Layers) -> np.ndarray:
        cosine = np.cos(angle)
        variance = np.sin(angle) ** 2 * out_of_plane + products.noise_variance(*weights(cosine))
        sign = np.where(cosine >= 0, 1.0, -1.0)
        return confidence.below_boundary(
            sign * (observed - cosine), 1 - sign * cosine, np.sqrt(variance) / scale
        )

    value = np.arccos(clipped)
    parallel = confidence.one_sided * np.sqrt(products.noise_variance(*weights(np.ones_like(a))))
    return Estimates.where(
        has_a & has_b,
        value=np.degrees(value),
        low=np.degrees(last_accepted(accepts, value, np.zeros_like(value))),
        high=np.degrees(last_accepted(accepts, value, np.full_like(value, np.pi))),
        null_low=np.zeros_like(value),
        null_high=np.degrees(np.arccos(np.clip(1.0 - parallel / scale, -1.0, 1.0))),
    )


def as_cosine(angle: Estimates) -> Estimates:
    """The same estimates as cosines; low and high change places."""
    value, high, low, null_high, null_low = (
        np.cos(np.radians(x))
        for x in (angle.value, angle.low, angle.high, angle.null_low, angle.null_high)
    )
    return Estimates(value, low, high, null_low, null_high, angle.defined)


def _cosine(
    a: Contrast, b: Contrast, level: float
) -> tuple[Estimates, np.ndarray, np.ndarray, np.ndarray]:
    """Cosine, which of the directions exist, their reliabilities, product of their lengths."""
    if a.positive.shape[1:] != b.positive.shape[1:]:
        raise InputError(
            f"contrasts have (layer, d_model) = {a.positive.shape[1:]} and {b.positive.shape[1:]}; "
            "collect both from the same model and layers"
        )
    means = joint_means(a, b, np.array([[1, -1, 0, 0], [0, 0, 1, -1]]))
    products = inner_products(means, [(0, 0), (1, 1), (0, 1)])
    confidence = Confidence(level, means.n)
    cosine = as_cosine(angle_degrees(products, confidence))
    there = np.stack([exists(products, index, confidence)[1] for index in (0, 1)], axis=1)
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

    observed = np.abs(statistics[0])
    p, p_corrected = permutation_p_values(np.abs(statistics))
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
