r"""Noise-free inner products between mean differences, with their covariance.

A difference of means :math:`\hat r = r + \varepsilon` has :math:`\lVert\hat r\rVert^2 \approx
\lVert r\rVert^2 + E\lVert\varepsilon\rVert^2`. In thousands of dimensions the noise term is the
larger one. Cross-fitting takes the two factors of every inner product from different halves of the
prompts, :math:`\langle r_A, r_B\rangle`. The average over *all* splits into halves has a closed
form: the product of the full means minus the products of each prompt with itself,

.. math:: T_{vw} = \langle\hat r_v, \hat r_w\rangle - \sum_u \langle z_u^v, z_u^w\rangle,

with :math:`z_u^v` the centred contribution of **unit** u to the mean v. A split never divides a
unit. A unit is a prompt, a prompt with its matched benign prompt, or the same prompt before and
after.

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

import numpy as np
from einops import rearrange
from jaxtyping import Float, Int

from interp.errors import InputError

MINIMUM_UNITS = 4
Weight = float | Float[np.ndarray, " layer"]


@dataclass(frozen=True)
class Means:
    """Differences of class means and the contribution of each unit, per layer."""

    mean: Float[np.ndarray, "layer vector d_model"]
    residual: Float[np.ndarray, "layer vector unit d_model"]
    """Centred contributions, scaled so that their squares sum to an unbiased noise estimate."""
    stratum: Int[np.ndarray, " unit"]
    """Stratum of each unit; units of one stratum have the same number of rows of every class."""
    n: int
    """Number of rows of the smallest class."""


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
    n_classes = vectors.shape[1]
    _, units = np.unique(units, return_inverse=True)
    counts = np.zeros((units.max() + 1, n_classes), dtype=np.int64)
    np.add.at(counts, (units, classes), 1)
    if np.min((counts > 0).sum(axis=0)) < MINIMUM_UNITS:
        raise InputError(
            f"{np.min((counts > 0).sum(axis=0))} separate prompts in a class; split halves need "
            f"at least {MINIMUM_UNITS}: give more prompts"
        )
    _, stratum = np.unique(counts, axis=0, return_inverse=True)
    sizes = counts.sum(axis=0)
    membership = (classes[:, None] == np.arange(n_classes)).astype(np.float64)
    means = np.einsum("rc,rld->lcd", membership / sizes, states)
    centred = states - rearrange(means, "layer label d_model -> label layer d_model")[classes]
    scale = 1.0 / np.sqrt(sizes * (sizes - 1.0))
    residuals = [sums_by_unit(centred * (w * scale)[classes, None, None], units) for w in vectors]
    return Means(
        mean=np.einsum("vc,lcd->lvd", vectors, means),
        residual=rearrange(residuals, "vector unit layer d -> layer vector unit d"),
        stratum=stratum,
        n=int(sizes.min()),
    )


def sums_by_unit(
    values: Float[np.ndarray, "row *rest"], units: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "unit *rest"]:
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
    layers = zip(means.mean, means.residual, strict=True)
    parts = [_layer(m, z, means.stratum, products) for m, z in layers]
    return InnerProducts(*(np.stack(part) for part in zip(*parts, strict=True)))


def _layer(
    mean: Float[np.ndarray, "vector d_model"],
    residual: Float[np.ndarray, "vector unit d_model"],
    stratum: Int[np.ndarray, " unit"],
    products: Sequence[tuple[int, int]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    values, plain, influences, kernels = [], [], [], []
    support = [np.flatnonzero(z.any(axis=1)) for z in residual]
    for v, w in products:
        own = np.einsum("ud,ud->u", residual[v], residual[w])
        plain.append(mean[v] @ mean[w])
        values.append(plain[-1] - own.sum())
        # A unit's influence on the product, excluding its product with itself.
        pull = residual[v] @ mean[w] + residual[w] @ mean[v] - 2.0 * own
        influences.append(pull - _stratum_means(pull, stratum)[stratum])
        gram = np.zeros((len(stratum), len(stratum)))
        gram[np.ix_(support[v], support[w])] = residual[v][support[v]] @ residual[w][support[w]].T
        kernels.append(noise_kernel((gram + gram.T) / 2.0, stratum).ravel())
    influence, kernel = np.stack(influences), np.stack(kernels)
    second = 2.0 * kernel @ kernel.T
    # The squared influences hold the noise-times-noise variance twice (Efron and Stein 1981).
    first = influence @ influence.T - 2.0 * second
    return np.array(values), np.array(plain), first, second


def noise_kernel(
    gram: Float[np.ndarray, "unit unit"], stratum: Int[np.ndarray, " unit"]
) -> Float[np.ndarray, "unit unit"]:
    """Products of the noise of different units, from products of centred contributions.

    Centring biases the entries of one stratum towards minus the diagonal over n. In many dimensions
    this bias is larger than the entries, so the function U-centres them (Székely and Rizzo 2014).
    The diagonal of the result is zero.
    """
    kernel = gram.copy()
    diagonal = np.diag(gram)
    for s in np.unique(stratum):
        inside = np.flatnonzero(stratum == s)
        n = len(inside)
        if n >= MINIMUM_UNITS:
            own = diagonal[inside]
            lean = (own[:, None] + own[None, :] - own.sum() / (n - 1)) / (n - 2)
            kernel[np.ix_(inside, inside)] += lean
            kernel[np.ix_(inside, inside)] *= np.sqrt((n - 1) / (n - 3))
    np.fill_diagonal(kernel, 0.0)
    return kernel


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


def _stratum_means(values: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    return np.bincount(stratum, weights=values) / np.bincount(stratum)
