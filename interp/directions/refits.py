r"""Refits of an estimator to the same prompts: with other labels, to halves, without single units.

The expected direction is the average of the directions that the estimator finds in half of the
prompts. With :math:`w_A, w_B` from the two halves of a split,
:math:`\langle w_A, w_B\rangle` is unbiased by noise for any estimator, and so is
:math:`\langle w_A, v_B\rangle` where v comes from the same prompts in another model. Both are
averaged over splits. Pairs stay together.

The sampling variance of such a product follows from the influence of every unit on the direction,
computed by leaving the unit out,

.. math:: z_u = f\,\sqrt{(n-1)/n}\,(\bar w - w_{(u)})

with :math:`\bar w` the mean over the units of one kind. :math:`\sum_u z_u z_u^\top` is the
jackknife's covariance (Efron and Stein, Annals of Statistics 1981). It counts terms that depend on
two units twice. The factor f scales its trace to the noise between the halves, and is at most 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.directions.fitting import REFITTED_SPLITS, Directed, Estimator, Labellings, copies_of
from interp.statistics import Axes, Contrast, Counts, Vectors, even_halves, kinds_of_units

# Up to this number, units of one kind are left out one by one; above it, several at a time.
MOST_LEFT_OUT = 100
SPLITS = 50


@dataclass(frozen=True)
class Replicates:
    """A direction fitted to halves of the prompts, and the influence of every block of units.

    Attributes:
        halves: directions fitted to each half of every split.
        influence: centred influences; their squares sum to the noise of ``direction``.
        axes: orthonormal axes of the coordinates; None where these are d_model.
        kind: of each block: blocks of one kind hold the same classes of rows.
        n: separate prompts that the estimator reports.
        effective_n: their effective number.
    """

    halves: Float[np.ndarray, "2 split layer coordinate"]
    influence: Float[np.ndarray, "layer block coordinate"]
    axes: Axes | None
    kind: Int[np.ndarray, " block"]
    n: int
    effective_n: float

    @property
    def direction(self) -> Float[np.ndarray, "layer d_model"]:
        """The mean over all halves, raw length."""
        return self.in_d_model(self.halves.mean(axis=(0, 1)))

    @property
    def reliability(self) -> Float[np.ndarray, " layer"]:
        """Share of the squared length of a half's direction that is signal."""
        size = (self.halves**2).sum(axis=-1).mean(axis=(0, 1))
        crossed = (self.halves[0] * self.halves[1]).sum(axis=-1).mean(axis=0)
        return np.asarray(crossed / np.where(size > 0, size, np.nan))

    def in_d_model(
        self, vectors: Float[np.ndarray, "*sample layer coordinate"]
    ) -> Float[np.ndarray, "*sample layer d_model"]:
        """The vectors in d_model coordinates."""
        if self.axes is None:
            return vectors
        flat = vectors.reshape(-1, *vectors.shape[-2:]).swapaxes(0, 1)
        return (flat @ self.axes).swapaxes(0, 1).reshape(*vectors.shape[:-1], -1)


@dataclass(frozen=True)
class Refits:
    """One estimator on one contrast.

    Attributes:
        contrast: the prompts.
        axes: orthonormal axes of the vectors' coordinates; None where these are d_model.
        n: separate prompts that the estimator reports.
        effective_n: their effective number.
        splits: number of splits into halves.
        solve: maps the positive rows and the count of each row to the directions; it fits all of
            them in one batch if the estimator allows it.
    """

    contrast: Contrast
    axes: Axes | None
    n: int
    effective_n: float
    splits: int
    solve: Callable[[Labellings, Counts], Vectors]

    @classmethod
    def of(cls, estimator: Estimator, contrast: Contrast) -> Refits:
        """Batched fits for this package's estimators; copies of the estimator for any other."""
        if not isinstance(estimator, Directed):
            copies = copies_of(estimator, contrast)
            return cls(contrast, None, contrast.n, contrast.effective_n, REFITTED_SPLITS, copies)
        sample, refit = estimator.prepared(contrast)

        def solve(positive: Labellings, counts: Counts) -> Vectors:
            return refit(positive, counts)[0]

        return cls(contrast, sample.axes, sample.n, sample.effective_n, SPLITS, solve)

    def relabelled(self, positive: Labellings) -> Vectors:
        """The directions under other labels of all rows, in coordinates."""
        return self.solve(positive, np.ones(positive.shape))

    def replicates(self, seed: int = 0) -> Replicates:
        """Fits to halves and without single units, under the observed labels.

        Args:
            seed: of the splits; contrasts of the same units get the same splits.
        """
        units, kinds = self.contrast.units, kinds_of_units(self.contrast)
        first = even_halves(kinds, self.splits, np.random.default_rng(seed))[:, units]
        block, kind = _blocks(kinds)
        without = (block[units] != np.arange(len(kind))[:, None]).astype(float)
        counts = np.concatenate([first, 1.0 - first, without])
        positive = np.broadcast_to(self.contrast.classes == 0, counts.shape)
        fits = self.solve(positive, counts)
        halves = fits[: 2 * self.splits].reshape(2, self.splits, *fits.shape[1:])
        left = fits[2 * self.splits :]

        pulls = np.zeros_like(left)
        for members in (np.flatnonzero(kind == k) for k in np.unique(kind)):
            n = len(members)
            centred = left[members].mean(axis=0) - left[members]
            pulls[members] = np.sqrt((n - 1) / n) * centred
        mean = halves.mean(axis=(0, 1))
        noise = (mean**2).sum(axis=-1) - (halves[0] * halves[1]).sum(axis=-1).mean(axis=0)
        jackknifed = (pulls**2).sum(axis=(0, 2))
        share = np.clip(noise / np.where(jackknifed > 0, jackknifed, np.inf), 0.0, 1.0)
        influence = np.sqrt(share)[:, None, None] * pulls.transpose(1, 0, 2)
        return Replicates(halves, influence, self.axes, kind, self.n, self.effective_n)


def _blocks(
    kinds: Int[np.ndarray, " unit"],
) -> tuple[Int[np.ndarray, " unit"], Int[np.ndarray, " block"]]:
    """The block of each unit, and the kind of each block; blocks of a kind have equal size."""
    block = np.empty(len(kinds), dtype=int)
    kind: list[int] = []
    for value in np.unique(kinds):
        members = np.flatnonzero(kinds == value)
        count = min(len(members), MOST_LEFT_OUT)
        block[members] = len(kind) + np.arange(len(members)) % count
        kind += [value] * count
    return block, np.array(kind)
