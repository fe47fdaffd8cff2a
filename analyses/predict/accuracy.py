r"""How well a prediction ranks leakage, for each part of the decomposition.

Leakage of one world is a matrix X[a,b]: the loss of target b when source a is unlearned. A
prediction is a matrix of the same shape, in any unit. The rank correlations (Spearman) of the two
have these names in the tables of predictions:

* `all_pairs`: over all cells a ≠ b
* `potency`: of the source effect α, the loss in all targets of a source
* `susceptibility`: of the target effect γ, the loss of a target for all sources
* `within_source`: over the targets of one source, averaged over sources
* `entanglement`: of the interaction δ of a pair, X[a,b] = μ + α_a + γ_b + δ_ab

Cells of one matrix are not independent, so p-values permute the prediction's rows and columns
together (QAP), separately in each world, and worlds are the unit of replication.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from analyses.runs import over_worlds
from interp.statistics import UNLIMITED

PARTS = ("all_pairs", "potency", "susceptibility", "within_source", "entanglement")
FEWEST_TARGETS = 3
CORRELATION = (-1.0, 1.0)
# Below this share of a matrix's spread, a remainder is rounding error.
ROUNDING = 1e-9

Matrix = Float[np.ndarray, "source target"]
Matrices = Float[np.ndarray, "sample source target"]
Values = Float[np.ndarray, " sample"]


@dataclass(frozen=True)
class LeakageOutcome:
    """The leakage of one world; NaN on the diagonal and in cells without a measurement."""

    leakage: Matrix

    @cached_property
    def measured(self) -> Bool[np.ndarray, "source target"]:
        return np.isfinite(self.leakage) & ~np.eye(len(self.leakage), dtype=bool)

    @cached_property
    def _cells(self) -> tuple[Int[np.ndarray, " cell"], Int[np.ndarray, " cell"]]:
        rows, columns = np.nonzero(self.measured)
        return rows, columns

    @cached_property
    def _effects(self) -> Float[np.ndarray, "effect cell"]:
        """Takes cells to (μ, α, γ) by least squares with Σα = Σγ = 0."""
        rows, columns = self._cells
        n = len(self.leakage)
        places = np.arange(n)
        design = np.hstack(
            [np.ones((len(rows), 1)), rows[:, None] == places, columns[:, None] == places]
        ).astype(float)
        sums = np.zeros((2, 2 * n + 1))
        sums[0, 1 : n + 1] = sums[1, n + 1 :] = 1
        return np.linalg.pinv(np.vstack([design, sums]))[:, : len(rows)]

    def of(self, predictions: Matrices, parts: Sequence[str] = PARTS) -> dict[str, Values]:
        """The rank correlation of each part, for each of many predictions.

        NaN where all values of a prediction, or of the leakage, are equal in a part. A cell that
        the prediction leaves undefined gets the prediction's mean.
        """
        rows, columns = self._cells
        cells = _filled(predictions[:, rows, columns])
        truth = self.leakage[rows, columns][None]
        spread, scale = np.ptp(cells, axis=1), np.ptp(truth, axis=1)
        found = {}
        for part in parts:
            if part == "within_source":
                found[part] = self._within_source(cells, truth, spread, scale)
            else:
                one, other = (self._part(part, values) for values in (cells, truth))
                found[part] = _spearman(one, other, spread, scale)
        return found

    def _part(self, part: str, cells: Float[np.ndarray, "sample cell"]) -> np.ndarray:
        """The values of a part: of cells, sources, targets or pairs."""
        if part == "all_pairs":
            return cells
        rows, columns = self._cells
        n = len(self.leakage)
        effects = cells @ self._effects.T
        alpha, gamma = effects[:, 1 : n + 1], effects[:, n + 1 :]
        if part == "potency":
            return alpha[:, np.unique(rows)]
        if part == "susceptibility":
            return gamma[:, np.unique(columns)]
        return cells - effects[:, :1] - alpha[:, rows] - gamma[:, columns]

    def _within_source(
        self, cells: np.ndarray, truth: np.ndarray, spread: Values, scale: Values
    ) -> Values:
        rows, _ = self._cells
        found = [
            _spearman(cells[:, rows == source], truth[:, rows == source], spread, scale)
            for source in np.unique(rows)
            if (rows == source).sum() >= FEWEST_TARGETS
        ]
        if not found:
            return np.full(len(cells), np.nan)
        values = np.array(found)
        counted = np.isfinite(values).sum(axis=0)
        with np.errstate(invalid="ignore"):
            return np.nansum(values, axis=0) / np.where(counted, counted, np.nan)


@dataclass(frozen=True)
class Skill:
    """One part of a predictor's skill over worlds, or its coefficient next to other predictors.

    Attributes:
        value: mean over worlds; NaN where the prediction is constant in every world.
        low, high: 95% interval over worlds (Student's, because a bootstrap over few is too narrow).
        p: probability of a mean at least as large under random permutations of the domains.
        null_high: 95th percentile of the mean under these permutations.
        worlds: the value of each world.
    """

    value: float
    low: float
    high: float
    p: float
    null_high: float
    worlds: tuple[float, ...]


def skill(
    predictions: Sequence[Matrix],
    outcomes: Sequence[LeakageOutcome],
    *,
    seed: int,
    permutations: int = 2000,
) -> Mapping[str, Skill]:
    """A predictor's skill over worlds, for every part.

    Args:
        predictions: one matrix for each world, on its diagonal anything.
        outcomes: what leaked in these worlds.
        seed: of permutations.
        permutations: of each world's domains; one world gives no interval.

    Raises:
        ValueError: the numbers of predictions and worlds differ.
    """
    rng = np.random.default_rng(seed)
    observed: dict[str, list[float]] = {part: [] for part in PARTS}
    null: dict[str, list[Values]] = {part: [] for part in PARTS}
    for prediction, outcome in zip(predictions, outcomes, strict=True):
        n = len(prediction)
        orders = np.array([np.arange(n)] + [rng.permutation(n) for _ in range(permutations)])
        shuffled = prediction[orders[:, :, None], orders[:, None, :]]
        for part, values in outcome.of(shuffled).items():
            observed[part].append(float(values[0]))
            null[part].append(values[1:])
    return {
        part: pooled_skill(observed[part], observed[part], null[part], limits=CORRELATION)
        for part in PARTS
    }


def pooled_skill(
    values: Sequence[float],
    tested: Sequence[float],
    null: Sequence[Values],
    *,
    limits: tuple[float, float] = UNLIMITED,
    two_sided: bool = False,
) -> Skill:
    """The mean over worlds with its interval and p.

    Args:
        values: the value of each world; NaN where the prediction is constant.
        tested: the statistic of each world; its mean is compared with the permutations' means.
        null: the statistic under random permutations of the domains, by world.
        limits: the values that can occur; the interval ends there.
        two_sided: compare absolute values.
    """
    worlds, found = np.array(values), np.array(tested)
    said = np.isfinite(found)
    if not said.any():
        return Skill(np.nan, np.nan, np.nan, np.nan, np.nan, tuple(values))
    size = np.abs if two_sided else np.asarray
    shuffled = size(np.array(null)[said].mean(axis=0))
    shuffled = shuffled[np.isfinite(shuffled)]  # drop permutations without variation
    reached = (shuffled >= size(found[said].mean()) - ROUNDING).sum()
    low = high = np.nan
    if said.all() and len(worlds) > 1:
        found_over = over_worlds(worlds)
        low, high = np.clip([found_over.low, found_over.high], *limits)
    return Skill(
        float(worlds[said].mean()),
        float(low),
        float(high),
        # The identity counts as one of the permutations, so p is never 0.
        float((1 + reached) / (1 + len(shuffled))),
        float(np.quantile(shuffled, 0.95)) if len(shuffled) else np.nan,
        tuple(values),
    )


def _filled(cells: Float[np.ndarray, "sample cell"]) -> Float[np.ndarray, "sample cell"]:
    defined = np.isfinite(cells)
    if defined.all():
        return cells
    count = defined.sum(axis=1, keepdims=True)
    total = np.where(defined, cells, 0.0).sum(axis=1, keepdims=True)
    return np.where(defined, cells, total / np.maximum(count, 1))


def _spearman(
    x: Float[np.ndarray, "sample value"],
    y: Float[np.ndarray, "1 value"],
    spread: Values,
    scale: Values,
) -> Values:
    """Rank correlation row by row; NaN where x or y varies by rounding error only.

    Args:
        x, y: values.
        spread, scale: range of the matrices from which x and y come.
    """
    a, b = _ranks(x, spread), _ranks(y, scale)
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(norms > 0, (a * b).sum(axis=1) / norms, np.nan)


def _ranks(
    values: Float[np.ndarray, "sample value"], spread: Values
) -> Float[np.ndarray, "sample value"]:
    """Ranks about their mean; values that differ by rounding error have equal ranks."""
    unit = np.where(spread > 0, spread, 1.0)[:, None] * ROUNDING
    ranks = rankdata(np.round(values / unit), axis=1)
    return np.asarray(ranks - ranks.mean(axis=1, keepdims=True))
