r"""Penalised logistic regressions of many labellings of the same rows, all at once.

With rows :math:`x_i` that count :math:`n_i` times, labels :math:`y_i \in \{0, 1\}` and
scikit-learn's C, every regression minimises

.. math:: C\sum_i n_i\,[\log(1 + e^{f_i}) - y_i f_i] + \tfrac12\lVert w\rVert^2,
          \qquad f_i = x_i \cdot w + b

by Newton's method. The Newton step is solved by conjugate gradients with the diagonal of the
Hessian as preconditioner: in the axes of :func:`interp.statistics.coordinates_of` the rows' Gram
matrix is diagonal, so the Hessian is nearly diagonal. All labellings share the rows, so every
iteration needs two matrix products for any number of labellings.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import expit

NEWTON_STEPS = 100
CONJUGATE_STEPS = 200
# Newton steps are solved to this share of the residual at most, and to the share by which the
# previous step moved the solution, so both errors shrink together.
LOOSEST, TIGHTEST = 0.2, 1e-4
# Error of the solution, as a share of the solution's length.
TOLERANCE = 1e-7
HALVINGS = 30
# Multiplications in one matrix product. OpenBLAS computes such small products in one thread.
# Several threads wait for one another longer than they compute; on a busy machine, ten times as
# long.
PRODUCT = 250_000
FEWEST = 16

Weights = Float[np.ndarray, "sample row"]
Solutions = Float[np.ndarray, "sample axis"]


def logistic_fits(
    rows: Float[np.ndarray, "row axis"],
    positive: Bool[np.ndarray, "sample row"],
    counts: Float[np.ndarray, "sample row"],
    inverse_penalty: float,
) -> tuple[Float[np.ndarray, "sample axis"], Float[np.ndarray, " sample"]]:
    """Slopes and intercepts, one regression per sample.

    Args:
        rows: shared by all samples.
        positive: the labels in every sample.
        counts: how often each row counts in it.
        inverse_penalty: scikit-learn's C.

    Returns:
        Slopes and intercepts; NaN where a sample holds rows of only one label.
    """
    design = np.column_stack([rows, np.ones(len(rows))])
    found = np.full((len(counts), design.shape[1]), np.nan)
    both = ((counts * positive).any(axis=1)) & ((counts * ~positive).any(axis=1))
    samples = np.flatnonzero(both)
    batch = max(FEWEST, PRODUCT // design.size)
    for some in np.array_split(samples, 1 + len(samples) // batch):
        found[some] = _newton(design, positive[some], inverse_penalty * counts[some])
    return found[:, :-1], found[:, -1]


def _newton(
    design: Float[np.ndarray, "row axis"],
    positive: Bool[np.ndarray, "sample row"],
    weights: Weights,
) -> Solutions:
    penalty = np.ones(design.shape[1])
    penalty[-1] = 0.0  # the intercept
    solution = np.zeros((len(weights), design.shape[1]))
    active = np.arange(len(weights))
    logits = np.zeros(weights.shape)
    share = np.full(len(weights), LOOSEST)
    for _ in range(NEWTON_STEPS):
        weight, label, here = weights[active], positive[active], solution[active]
        probability = expit(logits)
        gradient = (weight * (probability - label)) @ design + penalty * here
        curvature = weight * probability * (1 - probability)
        step = _newton_step(design, curvature, penalty, gradient, share)
        moved, logits = _shortened(design, weight, label, penalty, here, logits, step)
        solution[active] = moved
        length = np.linalg.norm(moved, axis=1)
        moving = np.linalg.norm(moved - here, axis=1) / np.where(length > 0, length, 1.0)
        going = moving * np.maximum(share, moving) > TOLERANCE
        active, logits = active[going], logits[going]
        share = np.clip(moving[going], TIGHTEST, LOOSEST)
        if not len(active):
            break
    return solution


def _newton_step(
    design: Float[np.ndarray, "row axis"],
    curvature: Weights,
    penalty: Float[np.ndarray, " axis"],
    gradient: Solutions,
    share: Float[np.ndarray, " sample"],
) -> Solutions:
    """-H⁻¹g by preconditioned conjugate gradients, H = designᵀ diag(curvature) design + penalty.

    It stops when the residual, in the preconditioner's norm, is this share of its initial value.
    """
    diagonal = curvature @ design**2 + penalty
    step, residual = np.zeros_like(gradient), -gradient
    direction = residual / diagonal
    size = np.einsum("sa,sa->s", residual, direction)
    enough = share**2 * size
    for _ in range(CONJUGATE_STEPS):
        if (size <= enough).all():
            break
        product = (curvature * (direction @ design.T)) @ design + penalty * direction
        bent = np.einsum("sa,sa->s", direction, product)
        rate = (size / np.where(bent > 0, bent, np.inf))[:, None]
        step += rate * direction
        residual -= rate * product
        preconditioned = residual / diagonal
        before, size = size, np.einsum("sa,sa->s", residual, preconditioned)
        direction *= (size / np.where(before > 0, before, np.inf))[:, None]
        direction += preconditioned
    return step


def _shortened(
    design: Float[np.ndarray, "row axis"],
    weight: Weights,
    label: Bool[np.ndarray, "sample row"],
    penalty: Float[np.ndarray, " axis"],
    here: Solutions,
    logits: Weights,
    step: Solutions,
) -> tuple[Solutions, Weights]:
    """The point after the step and its logits; the step is halved until the loss decreases."""

    def loss(points: Solutions, values: Weights) -> Float[np.ndarray, " sample"]:
        fit = np.einsum("sr,sr->s", weight, np.logaddexp(0.0, values) - label * values)
        return fit + 0.5 * (points**2) @ penalty

    along = step @ design.T
    share = np.ones((len(step), 1))
    start = loss(here, logits)
    for _ in range(HALVINGS):
        worse = loss(here + share * step, logits + share * along) > start * (1 + 1e-12)
        if not worse.any():
            break
        share[worse] /= 2
    return here + share * step, logits + share * along
