"""Two groups of prompts; the difference of their means is a direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.errors import InputError, brief
from interp.numbers import plain_number
from interp.statistics.crossfit import MINIMUM_UNITS, finite


@dataclass(frozen=True)
class Contrast:
    """Activations of positive and negative prompts, with the links between them.

    Linked rows form one unit: a prompt and its matched benign prompt, or several versions of one
    prompt. No split separates them, permutations exchange them as a whole, and every number of
    prompts counts units.

    Attributes:
        positive, negative: states; a 2-D array counts as one layer.
        pairs: row numbers (positive, negative) of prompts that belong together.
        groups: group of each row, positive rows first; rows of one group belong together. A row
            with ``None`` or NaN belongs to none.

    Raises:
        InputError: a side has fewer than four units, a state is not finite, the sides have
            different shapes, a pair names a row that does not exist, or there is not one group for
            each row.
    """

    positive: Float[np.ndarray, "positive layer d_model"]
    negative: Float[np.ndarray, "negative layer d_model"]
    pairs: Int[np.ndarray, "pair 2"] | None = None
    groups: Sequence[object] | Int[np.ndarray, " row"] | None = None

    def __post_init__(self) -> None:
        positive, negative = finite(self.positive), finite(self.negative)
        if positive.shape[1:] != negative.shape[1:]:
            raise InputError(
                f"positive states have (layer, d_model) = {positive.shape[1:]}, negative ones "
                f"{negative.shape[1:]}; both must come from the same model and layers"
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
        rows = len(positive) + len(negative)
        if self.groups is not None:
            object.__setattr__(self, "groups", unit_numbers(list(self.groups), rows))
        for name, units in zip(("positive", "negative"), self.units_of_sides, strict=True):
            if len(units) < MINIMUM_UNITS:
                raise InputError(
                    f"{len(units)} separate {name} prompts; a direction with an interval needs at "
                    f"least {MINIMUM_UNITS} on each side"
                )

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

        Raises:
            InputError: as for the class; or a label that is not true or false.
        """
        states = np.asarray(states)
        positive = truth_values(positive, len(states))
        units = None
        if groups is not None:
            numbers = unit_numbers(groups, len(states))
            units = np.concatenate([numbers[positive], numbers[~positive]])
        return cls(states[positive], states[~positive], groups=units)

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> Contrast:
        """The same prompts with ``change`` applied to their states, for instance whitening."""
        return replace(self, positive=change(self.positive), negative=change(self.negative))

    def linked_as(self, other: Contrast) -> Contrast:
        """The same states with the links of another contrast of the same prompts."""
        return replace(self, pairs=other.pairs, groups=other.groups)

    @property
    def n(self) -> int:
        """Number of separate prompts (units) on the smaller side."""
        return min(len(units) for units in self.units_of_sides)

    @property
    def effective_n(self) -> float:
        """Effective number of units on the smaller side: n if all hold equally many rows.

        It is one over the sum of the squared shares that units hold of the side's rows (Kish 1965).
        """
        return min(effective_number(side) for side in np.split(self.units, [len(self.positive)]))

    @property
    def states(self) -> Float[np.ndarray, "row layer d_model"]:
        """Positive rows, then negative rows."""
        return np.concatenate([self.positive, self.negative])

    @property
    def classes(self) -> Int[np.ndarray, " row"]:
        """0 for positive rows, 1 for negative rows."""
        return np.repeat([0, 1], [len(self.positive), len(self.negative)])

    @cached_property
    def units(self) -> Int[np.ndarray, " row"]:
        """Unit number of each row; rows with the same number belong together."""
        rows = len(self.positive) + len(self.negative)
        grouped = np.arange(rows) if self.groups is None else np.asarray(self.groups)
        if self.pairs is None:
            return grouped
        first, second = self.pairs.T
        ends = grouped[first], grouped[second + len(self.positive)]
        return joined_numbers(*ends, grouped.max() + 1)[grouped]

    @property
    def units_of_sides(self) -> tuple[Int[np.ndarray, " unit"], Int[np.ndarray, " unit"]]:
        """The units with positive rows and those with negative rows."""
        positive, negative = np.split(self.units, [len(self.positive)])
        return np.unique(positive), np.unique(negative)


def truth_values(labels: Sequence[object] | np.ndarray, rows: int) -> Bool[np.ndarray, " row"]:
    """Labels as truth values; 0 and 1 are taken too.

    Raises:
        InputError: there is not one for each row, or one is something else, such as a name.
    """
    values = np.asarray(labels)
    if values.shape != (rows,):
        raise InputError(f"{values.size} labels for {rows} prompts; give one for each")
    for value in map(plain_number, values.tolist()):
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise InputError(
                f"the label {brief(value)!r}; expected true where a prompt is positive and false "
                'where it is negative, as in labels == "harmful"'
            )
    return values.astype(bool)


def effective_number(units: Int[np.ndarray, " row"]) -> float:
    """Effective number of units: their number if all hold equally many rows."""
    sizes = np.unique(units, return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum())


def joined_numbers(
    first: Int[np.ndarray, " link"], second: Int[np.ndarray, " link"], count: int
) -> Int[np.ndarray, " number"]:
    """A new number for each of ``count`` numbers; those that links join share it."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(first)), (first, second)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def unit_numbers(groups: Sequence[object] | None, rows: int) -> Int[np.ndarray, " row"]:
    """A unit number per row; rows of the same group share it, ``None`` and NaN share none.

    Raises:
        InputError: there is not one group for each row.
    """
    import pandas as pd

    if groups is None:
        return np.arange(rows)
    if len(groups) != rows:
        raise InputError(f"{len(groups)} groups for {rows} prompts; give one for each")
    codes = pd.factorize(pd.Series(list(groups), dtype=object))[0]
    # Ungrouped rows have the code -1. Units are numbered by their first row.
    return pd.factorize(np.where(codes < 0, -1 - np.arange(len(codes)), codes))[0]
