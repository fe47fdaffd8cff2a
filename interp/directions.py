"""Directions of a label in the residual stream: estimators in scikit-learn's manner.

``fit(states, labels, groups)`` takes all layers at once; hyperparameters go to ``__init__``, what
is learned ends in an underscore. Signs: a mean difference points from the negatives to the
positives; a principal component is turned so that the positives' own mean projects on its positive
side. Lengths: a mean difference keeps its raw norm (``unit_direction_`` has length one), a
principal component has length one.

Reliability is the mean cosine between the directions of two halves of the prompts, about 0 for pure
noise; with its interval it comes from :mod:`interp.reliability`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.contrast import Contrast
from interp.crossfit import MINIMUM_UNITS, finite
from interp.direction_set import DirectionSet
from interp.errors import InputError
from interp.reliability import Counts, Weights, split_half_reliability

__all__ = ["DirectionSet", "FirstPrincipalComponent", "MeanDifference", "disjoint_controls"]

States = Float[np.ndarray, "prompt layer d_model"]
Labels = Bool[np.ndarray, " prompt"]


class MeanDifference:
    """Mean of the positives minus mean of the negatives (Marks and Tegmark 2023; Arditi 2024).

    Args:
        splits: random halvings that the reliability averages.
        resamples: bootstrap samples behind its interval; 0 leaves it out (NaN).
        level: coverage of that interval.
        seed: of halvings and resamples.

    Attributes:
        direction_: (layer, d_model), raw length.
        unit_direction_: the same with length one; zero where the difference is zero.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: prompts on the smaller side.
    """

    def __init__(
        self, *, splits: int = 50, resamples: int = 100, level: float = 0.95, seed: int = 0
    ) -> None:
        self.splits = splits
        self.resamples = resamples
        self.level = level
        self.seed = seed

    def fit(self, states: States, labels: Labels, groups: Sequence[object] | None = None) -> Self:
        """Fit at every layer.

        Args:
            states: activations of positive and negative prompts.
            labels: which are positive.
            groups: prompts of one group (twins) are never separated.

        Raises:
            InputError: fewer than four prompts on a side, or activations that are not finite.
        """
        contrast = Contrast.from_labels(states, labels, groups)
        positive = contrast.classes == 0
        rows = contrast.states
        centred = rows - rows.mean(axis=0)
        gram = np.einsum("ild,jld->lij", centred, centred, optimize=True)

        def combination(counts: Counts) -> Weights:
            up, down = counts * positive, counts * ~positive
            weights = up / up.sum(1, keepdims=True) - down / down.sum(1, keepdims=True)
            return np.broadcast_to(weights[:, None], (len(counts), len(gram), len(rows)))

        self.direction_ = contrast.positive.mean(axis=0) - contrast.negative.mean(axis=0)
        self.unit_direction_ = _unit(self.direction_)
        self.n_ = min(len(contrast.positive), len(contrast.negative))
        units = contrast.units
        # Negatives alone, linked prompts, positives alone: 0, 1, 2.
        sides = [np.bincount(units, weights=side) > 0 for side in (positive, ~positive)]
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            gram,
            combination,
            units,
            1 + sides[0].astype(int) - sides[1],
            splits=self.splits,
            resamples=self.resamples,
            level=self.level,
            seed=self.seed,
        )
        return self


class FirstPrincipalComponent:
    """First principal component of the positives' centred states (arXiv 2511.14017, R3).

    It knows nothing of the negatives: it is the axis on which the label's prompts differ most among
    themselves, which need not be the one that tells them from others.

    Args:
        splits, resamples, level, seed: as for :class:`MeanDifference`.

    Attributes:
        direction_: (layer, d_model), length one; the positives' own mean projects positive.
        explained_variance_ratio_: (layer,), its share of the positives' variance.
        reliability_, reliability_low_, reliability_high_: (layer,).
        n_: positive prompts.
    """

    def __init__(
        self, *, splits: int = 50, resamples: int = 100, level: float = 0.95, seed: int = 0
    ) -> None:
        self.splits = splits
        self.resamples = resamples
        self.level = level
        self.seed = seed

    def fit(
        self,
        states: States,
        labels: Labels | None = None,
        groups: Sequence[object] | None = None,
    ) -> Self:
        """Fit at every layer.

        Args:
            states: activations; only the positive rows are used.
            labels: which are positive; all by default.
            groups: prompts of one group are never separated.

        Raises:
            InputError: fewer than four positive prompts, or activations that are not finite.
        """
        chosen = np.ones(len(states), bool) if labels is None else np.asarray(labels, dtype=bool)
        rows = finite(np.asarray(states)[chosen])
        if len(rows) < MINIMUM_UNITS:
            raise InputError(
                f"{len(rows)} positive prompts; a principal component with a reliability needs at "
                f"least {MINIMUM_UNITS}"
            )
        names = None if groups is None else [g for g, c in zip(groups, chosen, strict=True) if c]
        gram = np.einsum("ild,jld->lij", rows, rows, optimize=True)

        def combination(counts: Counts) -> Weights:
            return _first_components(gram, counts)[0]

        weights, explained = _first_components(gram, np.ones((1, len(rows))))
        self.direction_ = _unit(np.einsum("lr,rld->ld", weights[0], rows))
        self.explained_variance_ratio_ = explained[0]
        self.n_ = len(rows)
        units = _group_numbers(names, len(rows))
        self.reliability_, self.reliability_low_, self.reliability_high_ = split_half_reliability(
            gram,
            combination,
            units,
            np.zeros(units.max() + 1, dtype=int),
            splits=self.splits,
            resamples=self.resamples,
            level=self.level,
            seed=self.seed,
        )
        return self


def disjoint_controls(
    pool: int,
    labels: Sequence[str],
    *,
    seed: int,
    groups: Sequence[object] | None = None,
) -> dict[str, Int[np.ndarray, " row"]]:
    """Split one pool of negative prompts into disjoint shares, one per label.

    Directions that share one control set have cosine .5 when there is nothing but noise, because
    they share the controls' noise.

    Args:
        pool: number of rows in the pool.
        labels: who gets a share; the outcome depends on their order and the seed alone.
        seed: of the shuffle.
        groups: rows of one group go to the same label.

    Returns:
        Row numbers by label, ascending; shares differ by one group at most.

    Raises:
        InputError: no labels, a label named twice, or fewer groups than labels.
    """
    if not labels or len(set(labels)) < len(labels):
        raise InputError(f"labels {list(labels)}; name each label that needs controls once")
    if groups is not None and len(groups) != pool:
        raise InputError(f"{len(groups)} groups for a pool of {pool} rows; give one for each")
    units = _group_numbers(groups, pool)
    kinds = np.unique(units)
    if len(kinds) < len(labels):
        raise InputError(
            f"{len(kinds)} separate control prompts for {len(labels)} labels; each needs its own"
        )
    shuffled = np.random.default_rng(seed).permutation(kinds)
    return {
        label: np.flatnonzero(np.isin(units, shuffled[start :: len(labels)]))
        for start, label in enumerate(labels)
    }


def _first_components(
    gram: Float[np.ndarray, "layer row row"], counts: Counts
) -> tuple[Weights, Float[np.ndarray, "sample layer"]]:
    """Row weights of the first component and its share of variance, rows counted ``counts`` times.

    Everything happens between prompts (n × n), whatever d_model is.
    """
    weights = np.empty((len(counts), len(gram), gram.shape[1]))
    explained = np.empty((len(counts), len(gram)))
    for sample, count in enumerate(counts):
        kept = np.flatnonzero(count)
        share, root = count[kept] / count.sum(), np.sqrt(count[kept])
        inner = gram[:, kept[:, None], kept[None, :]]
        mean = inner @ share  # (layer, kept): each row times the mean
        centred = inner - mean[:, :, None] - mean[:, None, :] + (mean @ share)[:, None, None]
        values, vectors = np.linalg.eigh(centred * root[:, None] * root[None, :])
        top = vectors[:, :, -1] * root
        top -= top.sum(axis=1, keepdims=True) * share  # applied to uncentred rows
        sign = np.where(np.einsum("lk,lk->l", top, mean) < 0, -1.0, 1.0)
        weights[sample] = 0.0
        weights[sample][:, kept] = top * sign[:, None]
        total = np.maximum(values, 0.0).sum(axis=1)
        explained[sample] = values[:, -1] / np.where(total > 0, total, 1.0)
    return weights, explained


def _unit(vectors: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm > 0, norm, 1.0)


def _group_numbers(groups: Sequence[object] | None, rows: int) -> Int[np.ndarray, " row"]:
    """A number per row; rows of the same group share it, ``None`` and NaN stand alone."""
    if groups is None:
        return np.arange(rows)
    numbers: dict[object, int] = {}
    alone = (group is None or group != group for group in groups)
    return np.array(
        [
            numbers.setdefault(("row", row) if single else ("group", group), len(numbers))
            for row, (group, single) in enumerate(zip(groups, alone, strict=True))
        ]
    )
