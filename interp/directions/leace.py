r"""Erasing a label from states with the least change: LEACE.

Belrose et al., *LEACE: Perfect linear concept erasure in closed form* (NeurIPS 2023,
arXiv 2306.03819), theorem 4.3. Consider all affine maps after which the label's classes have the
same mean; no linear probe then does better than the base rates. Of these maps,

.. math:: r(x) = x - \Sigma^{1/2} P \Sigma^{-1/2} (x - E x)

changes the states least, in *every* inner product at once. P projects onto the columns of
:math:`\Sigma^{-1/2}\Sigma_{xz}`; if Σ is singular, the roots are pseudo-inverses. With two classes
the map subtracts a multiple of the mean difference; the discriminant reads this multiple from the
state.

On the fitted prompts, erasure is exact with any covariance in place of Σ, but only Σ gives the
least change. With more dimensions than prompts, the unshrunk sample covariance lets the
discriminant fit noise, so the covariance is shrunk by default (:mod:`interp.statistics.rows`).

Limits: the model may still use the label. Non-linear traces remain, and so do traces at other
layers and positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float, Int, Shaped

from interp.directions.discriminant import discriminants
from interp.directions.fitting import Directed, Labellings, Refit, Sample, States, fit_reliability
from interp.directions.registry import estimator
from interp.errors import InputError
from interp.statistics import (
    MINIMUM_UNITS,
    Bases,
    Contrast,
    Coordinates,
    Counts,
    Vectors,
    centring_matrix,
    coordinates_of,
    effective_number,
    finite,
    in_d_model,
    labelled_weights,
    overlaps_of_halves,
    shrunk_covariance,
    unit,
    unit_numbers,
)

# Singular values of the whitened class means below this share of the largest: rounding errors.
RANK_TOLERANCE = 1e-6
# Class means that are closer than this, in standard deviations, are equal.
EQUAL = 1e-8


@dataclass(frozen=True)
class Eraser:
    """An affine map per layer: ``x - (x - mean) @ reads @ writes``.

    Attributes:
        mean: of the states that the eraser was fitted to.
        reads: the directions read from a state, one column per erased dimension.
        writes: the vectors subtracted for each dimension. ``writes @ reads`` is the identity,
            except where fewer dimensions were erased: zero columns and rows pad these.
    """

    mean: Float[np.ndarray, "layer d_model"]
    reads: Float[np.ndarray, "layer d_model dimension"]
    writes: Float[np.ndarray, "layer dimension d_model"]

    def __call__(
        self, states: Float[np.ndarray, "prompt layer d_model"]
    ) -> Float[np.ndarray, "prompt layer d_model"]:
        """The states with the label erased.

        Raises:
            InputError: states with different layers or a different width.
        """
        if np.shape(states)[1:] != self.mean.shape:
            raise InputError(
                f"states of shape {np.shape(states)} for an eraser of (layer, d_model) = "
                f"{self.mean.shape}; collect the layers that it was fitted to"
            )
        erased = np.einsum("pld,ldk,lke->ple", states - self.mean, self.reads, self.writes)
        return states - erased


@estimator("leace", title="LEACE", paper="Belrose et al. 2023, arXiv 2306.03819", badge="faithful")
@dataclass(kw_only=True)
class Leace(Directed):
    """Fits the eraser of a label with two or more classes.

    Args:
        shrink: shrink the covariance by Ledoit and Wolf's intensity.
        splits, resamples, level, seed: as for :class:`~interp.directions.MeanDifference`.

    Attributes:
        eraser_: the :class:`Eraser`, of (classes - 1) dimensions.
        direction_: (layer, d_model), the direction read for two classes, from the first to the
            second in sorted order (False to True). The states' shrunk standard deviation along it
            is one. Zero where the classes do not differ; absent for more than two classes.
        unit_direction_: the same with length one.
        reliability_, reliability_low_, reliability_high_: (layer,), of the subspace read: root mean
            squared cosine between halves.
        n_: prompts of the smallest class.

    Example:
        >>> harmful = (prompts["label"] == "harmful").to_numpy()
        >>> erased = sp.Leace(splits=1, resamples=0).fit(acts.states, harmful).eraser_(acts.states)
        >>> gap = erased[harmful].mean(axis=0) - erased[~harmful].mean(axis=0)
        >>> bool(np.abs(gap).max() < 1e-3)
        True
    """

    shrink: bool = True

    def fit(
        self,
        states: States,
        labels: Shaped[np.ndarray, " prompt"],
        groups: Sequence[object] | None = None,
    ) -> Self:
        """Fit at every layer.

        Args:
            states: activations of prompts of every class.
            labels: the class of each prompt, of any type with distinct values.
            groups: prompts of one group are never separated in the halves.

        Raises:
            InputError: fewer than two classes, fewer than four groups in one, a label is missing,
                or activations that are not finite.
        """
        import pandas as pd

        states = finite(states)
        if pd.isna(np.asarray(labels, dtype=object)).any():
            raise InputError("a label is missing; leave out the prompts without a class")
        _, classes = np.unique(np.asarray(labels), return_inverse=True)
        if classes.shape != (len(states),):
            raise InputError(f"{classes.size} labels for {len(states)} prompts; give one for each")
        units = unit_numbers(groups, len(states))
        of_classes = [units[classes == one] for one in np.unique(classes)]
        separate = [len(np.unique(own)) for own in of_classes]
        if len(separate) < 2 or min(separate) < MINIMUM_UNITS:
            raise InputError(
                f"classes of {separate} separate prompts; erasing a label needs two classes or "
                f"more, of {MINIMUM_UNITS} separate prompts each"
            )
        coordinates, axes = coordinates_of(states)
        width = states.shape[-1]

        def reads(counts: Counts) -> Bases:
            found = [_solve(coordinates, classes, c, width, self.shrink)[0] for c in counts]
            return _orthonormal(np.stack(found))

        read, write = _solve(coordinates, classes, np.ones(len(states)), width, self.shrink)
        self.eraser_ = Eraser(
            mean=states.mean(axis=0),
            reads=np.einsum("lvk,lvd->ldk", read, axes),
            writes=np.einsum("lvk,lvd->lkd", write, axes),
        )
        sample = Sample(
            coordinates,
            axes,
            units,
            _kinds(units, classes),
            min(separate),
            min(map(effective_number, of_classes)),
        )
        fit_reliability(self, sample, overlaps_of_halves(reads))
        if len(separate) == 2:
            (whole,), _ = self._reads(sample, width)(classes[None] == 1, np.ones((1, len(states))))
            self.direction_ = in_d_model(whole, axes)
            self.unit_direction_ = unit(self.direction_)
        return self

    def prepared(self, contrast: Contrast) -> tuple[Sample, Refit]:
        """See :class:`~interp.directions.fitting.Directed`."""
        sample = Sample.of_contrast(contrast)
        return sample, self._reads(sample, contrast.states.shape[-1])

    def _reads(self, sample: Sample, width: int) -> Refit:
        """The direction that the eraser of two classes reads: Σ⁻¹δ over the root of δᵀΣ⁻¹δ."""

        def read(
            positive: Labellings, counts: Counts
        ) -> tuple[Vectors, Float[np.ndarray, "sample layer"]]:
            found, _ = discriminants(
                sample.coordinates, positive, counts, width, within=False, shrink=self.shrink
            )
            weights = labelled_weights(positive, counts)
            differences = np.einsum("sr,lra->sla", weights, sample.coordinates, optimize=True)
            size = np.sqrt(np.maximum(np.einsum("sla,sla->sl", differences, found), 0.0))
            differs = size > EQUAL
            return found * (differs / np.where(differs, size, 1.0))[:, :, None], size

        return read


def _kinds(
    units: Int[np.ndarray, " row"], classes: Int[np.ndarray, " row"]
) -> Int[np.ndarray, " unit"]:
    """Number of the set of classes that each unit holds, so that halves share the sets evenly."""
    holds = np.zeros((units.max() + 1, classes.max() + 1), dtype=int)
    holds[units, classes] = 1
    # In the order of a Gray code, so that sets with neighbouring numbers share classes.
    return np.unique(holds.cumsum(axis=1) % 2, axis=0, return_inverse=True)[1]


def _solve(
    coordinates: Coordinates,
    classes: Int[np.ndarray, " row"],
    counts: Float[np.ndarray, " row"],
    d_model: int,
    shrink: bool,
) -> tuple[Float[np.ndarray, "layer axis dimension"], Float[np.ndarray, "layer axis dimension"]]:
    """The eraser's ``reads`` and ``writes``, in coordinates."""
    kept = np.flatnonzero(counts)
    count, root = counts[kept], np.sqrt(counts[kept])[:, None]
    rows = root * (centring_matrix(np.zeros(len(kept), dtype=int), count) @ coordinates[:, kept])
    covariance = shrunk_covariance(rows, count, d_model, shrink=shrink)
    members = (classes[kept, None] == np.arange(classes.max() + 1)).astype(float)
    members -= (count @ members) / count.sum()
    # States against label, in the covariance's eigenvectors, and then whitened.
    cross = np.einsum("lvk,lrv,rc->lkc", covariance.vectors, rows, root * members, optimize=True)
    down, up = (covariance.power(exponent)[0] for exponent in (-0.5, 0.5))
    columns, sizes, _ = np.linalg.svd(down[:, :, None] * cross, full_matrices=False)
    # If a label explained all variance along a column, the singular value would be ``most``.
    most = np.sqrt(count.sum()) * np.linalg.norm(root * members)
    differs = (sizes > RANK_TOLERANCE * sizes[:, :1]) & (sizes > EQUAL * most)
    columns = columns * differs[:, None, :]
    columns = columns[:, :, : members.shape[1] - 1]
    reads, writes = (covariance.vectors @ (scale[:, :, None] * columns) for scale in (down, up))
    return reads, writes


def _orthonormal(vectors: Bases) -> Bases:
    """An orthonormal basis of the span of the columns, padded with zeros."""
    basis, sizes, _ = np.linalg.svd(vectors, full_matrices=False)
    return basis * (sizes > RANK_TOLERANCE * sizes[..., :1])[..., None, :]
