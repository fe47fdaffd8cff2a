r"""Noise-free inner products between mean differences, with their covariance.

A difference of means :math:`\hat r = r + \varepsilon` has :math:`\lVert\hat r\rVert^2 \approx
\lVert r\rVert^2 + E\lVert\varepsilon\rVert^2`. In thousands of dimensions the noise term is the
larger one. Cross-fitting takes the two factors of every inner product from different halves of the
prompts, :math:`\langle r_A, r_B\rangle`. The average over *all* splits into halves has a closed
form: the product of the full means minus the products of each prompt with itself,

.. math:: T_{vw} = \langle\hat r_v, \hat r_w\rangle - \sum_u \langle e_u^v, e_u^w\rangle,

with :math:`e_u^v` the noise that **unit** u contributes to the mean v. A split never divides a
unit. A unit is a prompt, a prompt with its matched benign prompt, the same prompt before and after,
or a group of near-duplicates.

Only the centred contributions :math:`z_u = e_u - s_u\sum_k e_k` are known, with :math:`s_u` the
unit's share of the class's rows. If units are independent, and whatever their sizes,

.. math:: E\langle z_u, z'_k\rangle = \delta_{uk}D_u - s'_k D_u - s_u D_k + s_u s'_k \sum_j D_j

for two classes with shares s and s' and :math:`D_u = E\langle e_u, e'_u\rangle`.
:func:`own_products` solves it for D, which removes the bias of squares (:math:`n/(n-1)` for units
of equal size) and of products of different units (in many dimensions this bias is larger than the
products).

The covariance is the jackknife covariance without its second-order bias. The error of T is
:math:`T - E T = \sum_u A_u + \sum_{u \ne u'} H_{uu'}` (signal times noise, plus noise times noise).
The jackknife counts the variance of the second sum twice (Efron and Stein, *The jackknife estimate
of variance*, Annals of Statistics 1981). Near a zero angle only the second sum remains. The module
estimates and stores both parts separately.

Limits: the covariance includes only the sampling of prompts. Other models, seeds or prompt sources
add more variation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from itertools import product as product_of

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from interp.errors import InputError

MINIMUM_UNITS = 4
# Units with more than this share of a class's rows: their noise is not estimated further.
LEAST_ROOM = 0.25
Weight = float | Float[np.ndarray, " layer"]


@dataclass(frozen=True)
class Means:
    """Weighted sums of the means of parts (classes of rows), with the contribution of each unit."""

    vectors: Float[np.ndarray, "vector part"]
    """The weight of each part's mean in each vector."""
    mean: Float[np.ndarray, "layer part d_model"]
    contribution: Float[np.ndarray, "layer part unit d_model"]
    """Centred contribution of each unit to each part's mean; they sum to zero."""
    share: Float[np.ndarray, "part unit"]
    """Share of the part's rows in each unit; they sum to one."""

    @property
    def effective_n(self) -> float:
        """Effective number of units of the smallest part."""
        return float(1.0 / (self.share**2).sum(axis=1).max())


@dataclass(frozen=True)
class InnerProducts:
    """Cross-fitted inner products per layer and the two parts of their covariance."""

    value: Float[np.ndarray, "layer product"]
    plain: Float[np.ndarray, "layer product"]
    """The same products of the full means, with their noise bias."""
    first_order: Float[np.ndarray, "layer product product"]
    """Covariance from signal times noise; unbiased, so not always positive semi-definite."""
    second_order: Float[np.ndarray, "layer product product"]
    """Covariance from noise times noise; positive semi-definite."""
    influence: Float[np.ndarray, "layer product unit"]
    """Change of each product per unit of weight of each unit, in ascending order of its number; the
    squares sum to the first-order covariance plus twice the second-order one."""

    def variance(self, *weights: Weight) -> Float[np.ndarray, " layer"]:
        """Variance of a weighted sum of the products; missing weights at the end count as 0."""
        return np.maximum(self.signal_variance(*weights), 0.0) + self.noise_variance(*weights)

    def signal_variance(self, *weights: Weight) -> Float[np.ndarray, " layer"]:
        """The part of this variance from signal times noise; the estimate may be negative."""
        return self._quadratic(self.first_order, weights)

    def noise_variance(self, *weights: Weight) -> Float[np.ndarray, " layer"]:
        """The part from noise times noise; it remains if the signal cancels in the sum."""
        return np.maximum(self._quadratic(self.second_order, weights), 0.0)

    def _quadratic(
        self, matrix: Float[np.ndarray, "layer product product"], weights: tuple[Weight, ...]
    ) -> Float[np.ndarray, " layer"]:
        columns = [np.broadcast_to(np.asarray(w, np.float64), len(matrix)) for w in weights]
        stacked, given = np.stack(columns, axis=1), slice(len(weights))
        return np.einsum("lp,lpq,lq->l", stacked, matrix[:, given, given], stacked)


def class_means(
    states: Float[np.ndarray, "row layer d_model"],
    classes: Int[np.ndarray, " row"],
    units: Int[np.ndarray, " row"],
    vectors: Float[np.ndarray, "vector class"],
) -> Means:
    """Weighted sums of class means with the contribution of every unit.

    Args:
        states: rows of every class.
        classes: the class of each row, 0 … number of classes - 1.
        units: unit number of each row; a split never separates rows of a unit.
        vectors: the weight of each class mean in each vector, e.g. ``[[1, -1]]``.

    Raises:
        InputError: a class has fewer than four units, or a state is not finite.
    """
    states = finite(states)
    names, units = np.unique(units, return_inverse=True)
    depth, width = states.shape[1:]
    mean = np.empty((depth, vectors.shape[1], width))
    contribution = np.zeros((depth, vectors.shape[1], len(names), width))
    share = np.zeros((vectors.shape[1], len(names)))
    for part in range(vectors.shape[1]):
        rows, own = states[classes == part], units[classes == part]
        there = np.unique(own)
        if len(there) < MINIMUM_UNITS:
            raise InputError(
                f"{len(there)} separate prompts in a class; split halves need at least "
                f"{MINIMUM_UNITS}: give more prompts"
            )
        mean[:, part] = exact_mean(rows)
        sums = sums_by_unit((rows - mean[:, part]) / len(rows), own)
        contribution[:, part, there] = rearrange(sums, "unit layer d -> layer unit d")
        share[part, there] = np.bincount(own)[there] / len(rows)
    return Means(vectors, mean, contribution, share)


def sums_by_unit(
    values: Float[np.ndarray, " row *rest"], units: Int[np.ndarray, " row"]
) -> Float[np.ndarray, " unit *rest"]:
    """Sums over the rows of every unit, in ascending order of unit number."""
    order = np.argsort(units, kind="stable")
    _, starts = np.unique(units[order], return_index=True)
    return np.add.reduceat(values[order], starts, axis=0)


def inner_products(means: Means, products: Sequence[tuple[int, int]]) -> InnerProducts:
    """Cross-fitted inner products between the vectors of ``means``.

    Args:
        means: from :func:`class_means`.
        products: pairs of vector numbers.
    """
    weights = np.stack([_of_parts(*means.vectors[list(pair)]) for pair in products])
    layers = zip(means.mean, means.contribution, strict=True)
    parts = [_layer(mean, z, means.share, weights) for mean, z in layers]
    return InnerProducts(*(np.stack(part) for part in zip(*parts, strict=True)))


def _of_parts(
    v: Float[np.ndarray, " part"], w: Float[np.ndarray, " part"]
) -> Float[np.ndarray, "part part"]:
    """⟨v, w⟩ as a symmetric form in the parts' means."""
    form = np.outer(v, w)
    return (form + form.T) / 2


def _layer(
    mean: Float[np.ndarray, "part d_model"],
    z: Float[np.ndarray, "part unit d_model"],
    share: Float[np.ndarray, "part unit"],
    weights: Float[np.ndarray, "product part part"],
) -> tuple[np.ndarray, ...]:
    parts, units = share.shape
    noise = np.empty((parts, parts))
    # Influence of a unit's contribution to part p on its product with the mean of part q, from all
    # other units.
    pull = np.einsum("pud,qd->pqu", z, mean)
    kernels = np.zeros((len(weights), units, units))
    support = [_run_or_all(np.flatnonzero(of_part)) for of_part in share]
    for p, q in combinations_with_replacement(range(parts), 2):
        gram = z[p][support[p]] @ z[q][support[q]].T
        squares = np.einsum("ud,ud->u", z[p], z[q])
        own, total = own_products(squares, share[p], share[q])
        noise[p, q] = noise[q, p] = total
        for a, b in {(p, q), (q, p)}:
            others = np.maximum(1.0 - share[b], LEAST_ROOM)
            pull[a, b] -= (squares - share[a] * (total - own)) / others
        kernel = noise_kernel(gram, own, total, share[p], share[q])
        for product in np.flatnonzero(weights[:, p, q]):
            part = weights[product, p, q] * kernel
            _add(kernels[product], support[p], support[q], part)
            if p != q:
                _add(kernels[product], support[q], support[p], part.T)
    kernels[:, np.arange(units), np.arange(units)] = 0.0
    flat = kernels.reshape(len(weights), -1)
    second = 2.0 * flat @ flat.T
    # Each factor of a product pulls: twice the sum over the other factor's part.
    influence = 2.0 * np.einsum("xpq,pqu->xpu", weights, pull)
    squared = np.zeros((len(weights),) * 2)
    for p, q in product_of(range(parts), repeat=2):
        both = influence[:, None, p] * influence[None, :, q]
        squared += own_products(both, share[p], share[q])[1]
    # The squared influences hold the noise-times-noise variance twice, and slightly more with few
    # units (Efron and Stein 1981).
    n = max(1.0 / (share**2).sum(axis=1).max(), MINIMUM_UNITS)
    first = (squared + squared.T) / 2 - 2.0 * (n - 1) / (n - 2) * second
    plain = np.einsum("xpq,pq->x", weights, mean @ mean.T)
    value = plain - np.einsum("xpq,pq->x", weights, noise)
    return value, plain, first, second, influence.sum(axis=1)


def _run_or_all(numbers: Int[np.ndarray, " some"]) -> slice | Int[np.ndarray, " some"]:
    """Ascending numbers as a slice where they have no gap, which indexes without a copy."""
    first, last = numbers[0], numbers[-1]
    return slice(first, last + 1) if last - first + 1 == len(numbers) else numbers


def _add(
    matrix: Float[np.ndarray, "unit unit"],
    rows: slice | Int[np.ndarray, " some"],
    columns: slice | Int[np.ndarray, " others"],
    block: Float[np.ndarray, "some others"],
) -> None:
    """Add a block to some rows and columns of a matrix, in place."""
    if isinstance(rows, slice) or isinstance(columns, slice):
        matrix[rows, columns] += block
    else:
        matrix[np.ix_(rows, columns)] += block


def own_products(
    products: Float[np.ndarray, "*any unit"],
    share: Float[np.ndarray, " unit"],
    other: Float[np.ndarray, " unit"],
) -> tuple[Float[np.ndarray, "*any unit"], Float[np.ndarray, "*any"]]:
    """Expected products of each unit's noise with itself, and their sum, without bias.

    Args:
        products: of each unit's centred contributions to two parts.
        share: the units' shares of the first part.
        other: the same of the second part.
    """
    both = share * other
    inside = _inside(share, other)
    total = products @ inside / (1.0 + both @ inside)
    return (products - both * total[..., None]) * inside, total


def _inside(
    share: Float[np.ndarray, " unit"], other: Float[np.ndarray, " unit"]
) -> Float[np.ndarray, " unit"]:
    """One over the share of D that is left in a centred product; 0 for units of one part only."""
    return (share * other > 0) / np.maximum(1.0 - share - other, LEAST_ROOM)


def noise_kernel(
    gram: Float[np.ndarray, "unit other"],
    own: Float[np.ndarray, " unit"],
    total: Float[np.ndarray, ""],
    share: Float[np.ndarray, " unit"],
    other: Float[np.ndarray, " unit"],
) -> Float[np.ndarray, "unit other"]:
    """Products of the noise of different units, from products of centred contributions.

    For units of equal size this is U-centring (Székely and Rizzo 2014), with an unbiased sum of
    squares. The estimated own products hold products of different units too, so the cross-fitted
    product weighs these by slightly more than one. The diagonal has no meaning.

    Args:
        gram: of units with a share of the first part, and of the second.
        own: expected products of every unit with itself.
        total: their sum.
        share: of every unit in the first part.
        other: the same in the second part.
    """
    rows, columns = share > 0, other > 0
    inside = _inside(share, other)
    held = inside / (1.0 + (share * other) @ inside)

    def spread(
        each: Float[np.ndarray, " unit"], whole: Float[np.ndarray, ""]
    ) -> Float[np.ndarray, "unit other"]:
        """What every pair has from its two units, less what it has from the sum over all."""
        of_other = each[columns] - whole * other[columns]
        return np.outer(each[rows], other[columns]) + np.outer(share[rows], of_other)

    kernel = gram + spread(own, total)
    weight = 1.0 + spread(held, held.sum())
    n = max(1.0 / max((share**2).sum(), (other**2).sum()), MINIMUM_UNITS)
    return np.asarray(kernel * weight * np.sqrt((n - 1) / (n - 3)))


def exact_mean(rows: Float[np.ndarray, " row *rest"]) -> Float[np.ndarray, " *rest"]:
    """The mean of the rows, without a rounding error where all rows are equal."""
    return np.asarray(rows[0] + (rows - rows[0]).mean(axis=0))


def finite(states: np.ndarray) -> Float[np.ndarray, "row layer d_model"]:
    """The states in float64 as (row, layer, d_model); a 2-D array counts as one layer.

    Raises:
        InputError: the array is empty, has another number of axes, or has NaN or infinite values.
    """
    states = np.asarray(states, dtype=np.float64)
    if states.ndim == 2:
        states = states[:, None, :]
    if states.ndim != 3 or not states.size:
        raise InputError(
            f"activations of shape {states.shape}; expected (prompt, layer, d_model), not empty"
        )
    if not np.isfinite(states).all():
        rows = np.unique(np.argwhere(~np.isfinite(states))[:, 0])
        raise InputError(
            f"NaN or infinite activations in {len(rows)} of {len(states)} prompts "
            f"(first: row {rows[0]}); collect them again in float32 or leave these prompts out"
        )
    return states
