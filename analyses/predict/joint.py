r"""Regression on several predictors: the contribution of each given the others.

In one world, over its cells a ≠ b, with every matrix standardised:

    X = β₀ + Σ_k β_k P_k + error

Cells share sources and targets, so plain least squares finds too many effects. Predictors are
collinear, so a proxy of the cause could appear as the cause. Both call for double semi-partialling
(Dekker, Krackhardt and Snijders, *Sensitivity of MRQAP tests to collinearity and autocorrelation
conditions*, Psychometrika 72, 2007). It replaces P_k by its residual ε_k given the other predictors
and permutes rows and columns of ε_k together. The test compares the t statistic of its coefficient,
with the other predictors unchanged, with the t statistics of the permutations, two-sided. Each
world is permuted separately; the test statistic is the mean t. A single predictor's β is its
Pearson correlation.

The regression uses values, not ranks. Where one predictor is a linear cause, ranks make its effect
nonlinear, and a proxy explains the nonlinear rest (at 42 cells the proxy's p is under .05 in 8% of
worlds with ranks, in 5% with values).

For the part `entanglement` (the interaction) the regression has an effect for every source and
every target, so that only the interaction of pairs remains to explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from analyses.predict.accuracy import ROUNDING, Matrix, Skill, pooled_skill
from interp.errors import InputError

PARTS = ("all_pairs", "entanglement")


def joint(
    predictions: Mapping[str, Sequence[Matrix]],
    outcomes: Sequence[Matrix],
    *,
    part: str = "all_pairs",
    seed: int,
    permutations: int = 2000,
) -> dict[str, Skill]:
    """Every predictor's standardised coefficient next to the others; p is two-sided.

    Args:
        predictions: by name, one matrix for each world; on the diagonal anything. A cell that a
            predictor leaves undefined counts as its average one.
        outcomes: what leaked, NaN where nothing was measured.
        part: `all_pairs`, or `entanglement` (interaction): with effects of sources and targets.
        seed: of permutations.
        permutations: of each world's domains; one world gives no interval.

    Raises:
        InputError: a world has too few cells for so many predictors.
    """
    rng = np.random.default_rng(seed)
    worlds = []
    for w, outcome in enumerate(outcomes):
        world = {name: matrices[w] for name, matrices in predictions.items()}
        orders = np.array([rng.permutation(len(outcome)) for _ in range(permutations)])
        worlds.append(regression(world, outcome, orders, part=part))
    found = {}
    for name in predictions:
        values, tested, null = zip(*(world[name] for world in worlds), strict=True)
        found[name] = pooled_skill(values, tested, null, two_sided=True)
    return found


def regression(
    predictors: Mapping[str, Matrix],
    outcome: Matrix,
    orders: Int[np.ndarray, "permutation domain"],
    *,
    part: str = "all_pairs",
) -> dict[str, tuple[float, float, Float[np.ndarray, " permutation"]]]:
    """One world: each predictor's coefficient, its t, and the t of every permutation.

    Raises:
        InputError: too few cells for so many predictors.
    """
    n = len(outcome)
    apart = ~np.eye(n, dtype=bool)
    measured = np.isfinite(outcome) & apart
    columns = {name: _standardised(p, apart, measured) for name, p in predictors.items()}
    fixed = _fixed(n, part)
    y = _standardised(outcome, measured, measured)[measured]
    if measured.sum() < np.linalg.matrix_rank(fixed[measured]) + len(predictors) + 2:
        raise InputError(
            f"{measured.sum()} cells are too few for {len(predictors)} predictors; "
            "unlearn more domains, or compare fewer predictors"
        )
    found = {}
    for name, column in columns.items():
        others = [fixed] + [c[:, :, None] for other, c in columns.items() if other != name]
        beside = np.concatenate(others, axis=2)
        left = np.zeros((n, n))
        left[apart] = _residual(column[apart], beside[apart])
        if (left[apart] ** 2).sum() <= ROUNDING * (column[apart] ** 2).sum() or not column.any():
            found[name] = np.nan, np.nan, np.full(len(orders), np.nan)
            continue
        shuffled = left[orders[:, :, None], orders[:, None, :]][:, measured]
        value, t = _coefficient(np.vstack([left[measured][None], shuffled]), y, beside[measured])
        found[name] = float(value[0]), float(t[0]), t[1:]
    return found


def _fixed(n: int, part: str) -> Float[np.ndarray, "domain domain term"]:
    """The terms of every regression: the mean, or effects of each source and target."""
    one = np.ones((n, n, 1))
    if part == "all_pairs":
        return one
    eye = np.broadcast_to(np.eye(n), (n, n, n))
    return np.concatenate([one, eye.transpose(1, 0, 2), eye], axis=2)


def _standardised(
    matrix: Matrix,
    cells: Bool[np.ndarray, "source target"],
    over: Bool[np.ndarray, "source target"],
) -> Matrix:
    """Mean 0 and variance 1 over ``over``; 0 outside ``cells``, and everywhere if nothing varies.

    Undefined cells get the mean.
    """
    defined = cells & np.isfinite(matrix)
    values = np.zeros_like(matrix, dtype=np.float64)
    if defined.any():
        values[defined] = matrix[defined]
        values[cells & ~defined] = matrix[defined].mean()
    deviation = values[over].std()
    if not deviation > ROUNDING * np.abs(values).max(initial=0.0):
        return np.zeros_like(values)
    return np.where(cells, (values - values[over].mean()) / deviation, 0.0)


def _residual(
    values: Float[np.ndarray, " cell"], design: Float[np.ndarray, "cell term"]
) -> Float[np.ndarray, " cell"]:
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def _coefficient(
    tried: Float[np.ndarray, "sample cell"],
    y: Float[np.ndarray, " cell"],
    beside: Float[np.ndarray, "cell term"],
) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, " sample"]]:
    """Coefficient and t of each row of ``tried`` given `beside` (Frisch, Waugh and Lovell)."""
    rotation, scales, _ = np.linalg.svd(beside, full_matrices=False)
    basis = rotation[:, scales > ROUNDING * scales[0]]
    x = tried - (tried @ basis) @ basis.T
    rest = y - basis @ (basis.T @ y)
    product, own = x @ rest, (x**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = product / own
        error = ((rest**2).sum() - value * product) / (len(y) - basis.shape[1] - 1)
        return value, value / np.sqrt(np.maximum(error, np.finfo(float).tiny) / own)
