"""Two groups of prompts; the difference of their means is a direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError
from interp.statistics.crossfit import MINIMUM_UNITS, finite


@dataclass(frozen=True)
class Contrast:
    """Activations of positive and negative prompts, with the links between them.

    Attributes:
        positive, negative: states; a 2-D array counts as one layer.
        pairs: row numbers (positive, negative) of prompts that belong together, for instance a
            prompt and its matched benign prompt. They stay together in every split and permutation.
            Each row outside the pairs is a separate unit.

    Raises:
        InputError: a side has fewer than four rows, a state is not finite, the sides have different
            shapes, or a pair names a row that does not exist.
    """

    positive: Float[np.ndarray, "positive layer d_model"]
    negative: Float[np.ndarray, "negative layer d_model"]
    pairs: Int[np.ndarray, "pair 2"] | None = None

    def __post_init__(self) -> None:
        positive, negative = finite(self.positive), finite(self.negative)
        if positive.shape[1:] != negative.shape[1:]:
            raise InputError(
                f"positive states have (layer, d_model) = {positive.shape[1:]}, negative ones "
                f"{negative.shape[1:]}; both must come from the same model and layers"
            )
        for name, side in (("positive", positive), ("negative", negative)):
            if len(side) < MINIMUM_UNITS:
                raise InputError(
                    f"{len(side)} {name} prompts; a direction with an interval needs at least "
                    f"{MINIMUM_UNITS} on each side"
                )
        object.__setattr__(self, "positive", positive)
        object.__setattr__(self, "negative", negative)
        if self.pairs is not None:
            pairs = np.asarray(self.pairs, dtype=np.int64).reshape(-1, 2)
            if pairs.size and (pairs.min() < 0 or (pairs >= (len(positive), len(negative))).any()):
                raise InputError(
                    f"pairs name rows beyond the {len(positive)} positive and {len(negative)} "
                    "negative ones; give row numbers (positive, negative)"
                )
            object.__setattr__(self, "pairs", pairs)

    @classmethod
    def from_labels(
        cls,
        states: Float[np.ndarray, "prompt layer d_model"],
        positive: Bool[np.ndarray, " prompt"],
        groups: Sequence[object] | None = None,
    ) -> Contrast:
        """A contrast from one table of prompts.

        Args:
            states: one row per prompt.
            positive: whether each row is positive.
            groups: group of each row; rows of the same group belong together (as in scikit-learn).
                A row with ``None`` or NaN is a separate unit.
        """
        states, positive = np.asarray(states), np.asarray(positive, dtype=bool)
        if positive.shape != (len(states),):
            raise InputError(f"{positive.size} labels for {len(states)} prompts; give one for each")
        if groups is not None and len(groups) != len(states):
            raise InputError(f"{len(groups)} groups for {len(states)} prompts; give one for each")
        units = unit_numbers(groups, len(states))
        pairs = np.argwhere(units[positive][:, None] == units[~positive])
        return cls(states[positive], states[~positive], pairs if len(pairs) else None)

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> Contrast:
        """The same prompts with ``change`` applied to their states, for instance whitening."""
        return Contrast(change(self.positive), change(self.negative), self.pairs)

    @property
    def n(self) -> int:
        """Number of prompts on the smaller side."""
        return min(len(self.positive), len(self.negative))

    @property
    def states(self) -> Float[np.ndarray, "row layer d_model"]:
        """Positive rows, then negative rows."""
        return np.concatenate([self.positive, self.negative])

    @property
    def classes(self) -> Int[np.ndarray, " row"]:
        """0 for positive rows, 1 for negative rows."""
        return np.repeat([0, 1], [len(self.positive), len(self.negative)])

    @property
    def units(self) -> Int[np.ndarray, " row"]:
        """Unit number of each row; rows with the same number belong together."""
        rows = len(self.positive) + len(self.negative)
        if self.pairs is None:
            return np.arange(rows)
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        links = (self.pairs[:, 0], self.pairs[:, 1] + len(self.positive))
        graph = coo_array((np.ones(len(self.pairs)), links), shape=(rows, rows))
        return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def unit_numbers(groups: Sequence[object] | None, rows: int) -> Int[np.ndarray, " row"]:
    """A unit number per row; rows of the same group share it, ``None`` and NaN share none."""
    import pandas as pd

    if groups is None:
        return np.arange(rows)
    codes = pd.factorize(pd.Series(list(groups), dtype=object))[0]
    # Ungrouped rows have the code -1. Units are numbered by their first row.
    return pd.factorize(np.where(codes < 0, -1 - np.arange(len(codes)), codes))[0]
