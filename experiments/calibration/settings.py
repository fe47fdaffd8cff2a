"""One row of the calibration table: a quantity, a setting, and how to simulate it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal
from zlib import crc32

import numpy as np

Kind = Literal["coverage", "error", "power"]
# Nominal rate of each kind, and the rates that count as calibrated; power has neither.
NOMINAL: dict[Kind, float] = {"coverage": 0.95, "error": 0.05}
GOOD: dict[Kind, tuple[float, float]] = {"coverage": (0.92, 0.98), "error": (0.03, 0.07)}
# No setting may be worse than this: coverage below it, or error above it.
LIMIT: dict[Kind, float] = {"coverage": 0.88, "error": 0.10}


@dataclass(frozen=True)
class Tally:
    """The result of many replications.

    Attributes:
        hits: intervals that contain the truth, tests that reject a true null hypothesis, or
            tests that find a true effect.
        of: replications with an interval or a p-value.
        withheld: replications in which the code reported too few data instead.
    """

    hits: int
    of: int
    withheld: int = 0


@dataclass(frozen=True)
class Setting:
    """One simulation.

    Attributes:
        quantity: the reported number.
        setting: sample size, distribution and dependence.
        kind: ``coverage`` of 95% intervals, ``error`` of tests at 5%, or ``power`` of tests.
        run: takes a random generator and a number of replications.
        replications: of the full table.
        quick: whether the slow tests run it too, with fewer replications.
    """

    quantity: str
    setting: str
    kind: Kind
    run: Callable[[np.random.Generator, int], Tally]
    replications: int = 2000
    quick: bool = False

    @property
    def seed(self) -> int:
        """The seed of the simulation: it depends on the row's names alone."""
        return crc32(f"{self.quantity}/{self.setting}".encode())


def covered(truth: float, intervals: Iterable[tuple[float, float]]) -> Tally:
    """How many of the intervals contain the truth; NaN bounds count as withheld."""
    bounds = np.array(list(intervals), dtype=np.float64).reshape(-1, 2)
    known = bounds[np.isfinite(bounds).all(axis=1)]
    hits = (known[:, 0] <= truth) & (truth <= known[:, 1])
    return Tally(int(hits.sum()), len(known), len(bounds) - len(known))


def rejected(p_values: Iterable[float], level: float = NOMINAL["error"]) -> Tally:
    """How many tests reject at ``level``; NaN counts as withheld."""
    found = np.array(list(p_values), dtype=np.float64)
    known = found[np.isfinite(found)]
    return Tally(int((known < level).sum()), len(known), len(found) - len(known))
