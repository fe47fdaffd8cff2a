r"""Erasing a label from states with the least change: LEACE.

Belrose et al., *LEACE: Perfect linear concept erasure in closed form* (NeurIPS 2023,
arXiv 2306.03819), theorem 4.3: among all affine maps after which the label's classes have the same
mean, so that no linear probe does better than the base rates,

.. math:: r(x) = x - \Sigma^{1/2} P \Sigma^{-1/2} (x - E x)

moves the states least, in *every* inner product at once. P projects onto the columns of
:math:`\Sigma^{-1/2}\Sigma_{xz}`; roots are pseudo-inverse where Σ is singular. With two classes it
subtracts the mean difference, as much of it as the discriminant reads off the state.

Erasure on the fitted prompts is exact with any covariance in the place of Σ; being the least change
is not. In more dimensions than prompts the sample's own covariance lets the discriminant fit noise,
so it is shrunk (:mod:`interp.shrinkage`) unless asked not to.

What it does not show: that a model cannot use the label. Non-linear traces remain, and so do those
at other layers and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.crossfit import MINIMUM_UNITS, finite
from interp.directions.rows import Gram, centred, gram_of, unit_numbers
from interp.errors import InputError
from interp.reliability import Bases, Counts, overlaps_of_halves, split_half_reliability
from interp.shrinkage import centring_matrix, shrunk_covariance

# Singular values of the whitened class means below this share of the largest are rounding.
RANK_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Eraser:
    """An affine map per layer: ``x - (x - mean) @ reads @ writes``.

    Attributes:
        mean: of the states it was fitted to.
        reads: what is read off a state, one column per erased dimension.
        writes: what is subtracted for each; ``writes @ reads`` is the identity, but where there
            was less to erase: columns and rows of zeros fill up there.
    """

    mean: Float[np.ndarray, "layer d_model"]
    reads: Float[np.ndarray, "layer d_model dimension"]
    writes: Float[np.ndarray, "layer dimension d_model"]

    def __call__(
        self, states: Float[np.ndarray, "prompt layer d_model"]
    ) -> Float[np.ndarray, "prompt layer d_model"]:
        """The states with the label erased.

        Raises:
            InputError: states of other layers or another width.
        """
        if np.shape(states)[1:] != self.mean.shape:
            raise InputError(
                f"states of shape {np.shape(states)} for an eraser of (layer, d_model) = "
                f"{self.mean.shape}; collect the layers that it was fitted to"
            )
        erased = np.einsum("pld,ldk,lke->ple", states - self.mean, self.reads, self.writes)
        return states - erased


@dataclass(kw_only=True)
class Leace:
    """Fits the eraser of a label with two or more classes.

    Args:
        shrink: the covariance, after Ledoit and Wolf.
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        eraser_: the :class:`Eraser`, of (classes - 1) dimensions.
        reliability_, reliability_low_, reliability_high_: (layer,), of the subspace that it reads:
            root mean squared cosine between halves.
        n_: prompts of the smallest class.
    """

    shrink: bool = True
    splits: int = 50
    resamples: int = 100
    level: float = 0.95
    seed: int = 0

    def fit(
        self,
        states: Float[np.ndarray, "prompt layer d_model"],
        labels: Shaped[np.ndarray, " prompt"],
        groups: Sequence[object] | None = None,
    ) -> Self:
        """Fit at every layer.

        Args:
            states: activations of prompts of every class.
            labels: the class of each prompt, anything that can be told apart.
            groups: prompts of one group are never separated in the halves.

        Raises:
            InputError: fewer than two classes, fewer than four prompts in one, or activations that
                are not finite.
        """
        states = finite(states)
        _, classes = np.unique(np.asarray(labels), return_inverse=True)
        sizes = np.bincount(classes)
        if classes.shape != (len(states),):
            raise InputError(f"{classes.size} labels for {len(states)} prompts; give one for each")
        if len(sizes) < 2 or sizes.min() < MINIMUM_UNITS:
            raise InputError(
                f"classes of {sizes.tolist()} prompts; erasing a label needs two classes or more, "
                f"of {MINIMUM_UNITS} prompts each"
            )
        rows = centred(states)
        gram = gram_of(rows)

        def reads(counts: Counts) -> Bases:
            found = [_solve(gram, classes, c, rows.shape[-1], self.shrink)[0] for c in counts]
            return np.stack([_orthonormal(gram, reading) for reading in found])

        read, write = _solve(gram, classes, np.ones(len(rows)), rows.shape[-1], self.shrink)
        self.eraser_ = Eraser(
            mean=states.mean(axis=0),
            reads=np.einsum("lrk,rld->ldk", read, rows, optimize=True),
            writes=np.einsum("lrk,rld->lkd", write, rows, optimize=True),
        )
        self.n_ = int(sizes.min())
        units = unit_numbers(groups, len(rows))
        # Units of like composition are spread evenly over the halves.
        composition = np.zeros((units.max() + 1, len(sizes)))
        np.add.at(composition, (units, classes), 1.0)
        kinds = np.unique(composition, axis=0, return_inverse=True)[1]
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            overlaps_of_halves(gram, reads), units, kinds, self
        )
        return self


def _solve(
    gram: Gram,
    classes: Int[np.ndarray, " row"],
    counts: Float[np.ndarray, " row"],
    d_model: int,
    shrink: bool,
) -> tuple[Float[np.ndarray, "layer row dimension"], Float[np.ndarray, "layer row dimension"]]:
    """Weights of the rows in what the eraser reads and in what it writes."""
    kept = np.flatnonzero(counts)
    count, inner = counts[kept], gram[:, kept[:, None], kept[None, :]]
    root = np.sqrt(count)
    centring = root[:, None] * centring_matrix(np.zeros(len(kept), dtype=int), count)
    centred_gram = centring @ inner @ centring.T
    covariance = shrunk_covariance(centred_gram, count, d_model, shrink=shrink)
    members = (classes[kept, None] == np.arange(classes.max() + 1)).astype(float)
    members -= (count @ members) / count.sum()
    # In the covariance's eigenvectors: states against label, then whitened.
    cross = np.einsum(
        "lrv,lrs,sc->lvc", covariance.weights, centred_gram, root[:, None] * members, optimize=True
    )
    down, _ = covariance.powered(-0.5)
    up, _ = covariance.powered(0.5)
    columns, sizes, _ = np.linalg.svd(down[:, :, None] * cross, full_matrices=False)
    dimensions = members.shape[1] - 1
    present = sizes > RANK_TOLERANCE * sizes[:, :1]
    columns = (columns * present[:, None, :])[:, :, :dimensions]
    eigenvectors = centring.T @ covariance.weights
    weights = np.zeros((2, len(gram), len(counts), columns.shape[-1]))
    for side, scale in zip(weights, (down, up), strict=True):
        side[:, kept] = eigenvectors @ (scale[:, :, None] * columns)
    return weights[0], weights[1]


def _orthonormal(
    gram: Gram, weights: Float[np.ndarray, "layer row dimension"]
) -> Float[np.ndarray, "layer row dimension"]:
    """Weights of an orthonormal basis of the same subspace."""
    values, vectors = np.linalg.eigh(np.einsum("lrk,lrs,lsm->lkm", weights, gram, weights))
    scale = np.where(values > 0, 1 / np.sqrt(np.where(values > 0, values, 1.0)), 0.0)
    return weights @ (vectors * scale[:, None, :])
