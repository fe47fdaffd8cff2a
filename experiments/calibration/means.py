"""Means over prompts: p_R, log-odds, coherence and other values of each prompt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from experiments.calibration.settings import Setting, Tally, covered
from interp.statistics import mean_of

#: Name → draws of values, and their mean.
DISTRIBUTIONS: dict[str, tuple[Callable[[np.random.Generator, int], np.ndarray], float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 0.0),
    "Student's t, 3 degrees": (lambda rng, n: rng.standard_t(3, size=n), 0.0),
    "exponential": (lambda rng, n: rng.exponential(size=n), 1.0),
    "lognormal": (lambda rng, n: rng.lognormal(size=n), float(np.exp(0.5))),
    "mostly near 0 (beta .3, 1)": (lambda rng, n: rng.beta(0.3, 1, size=n), 0.3 / 1.3),
    "mostly near 1 (beta 8, 1)": (lambda rng, n: rng.beta(8, 1, size=n), 8 / 9),
}


def _mean(name: str, n: int, copies: int = 1) -> Setting:
    draw, truth = DISTRIBUTIONS[name]

    def run(rng: np.random.Generator, replications: int) -> Tally:
        groups = np.repeat(np.arange(n // copies), copies)
        found = [
            mean_of(np.repeat(draw(rng, n // copies), copies), groups) for _ in range(replications)
        ]
        return covered(truth, [(one.low, one.high) for one in found])

    grouped = f" in groups of {copies} copies" if copies > 1 else ""
    return Setting("mean", f"n {n}{grouped}, {name}", "coverage", run, 1000, n == 12)


SETTINGS = (
    *(_mean(name, n) for n in (12, 24, 48) for name in DISTRIBUTIONS),
    *(_mean(name, 48, 4) for name in DISTRIBUTIONS),
    _mean("normal", 5),
    _mean("normal", 4),
)
