"""Shares of prompts: Wilson's interval, with and without groups of prompts."""

from __future__ import annotations

import numpy as np

from experiments.calibration.settings import Setting, Tally, covered
from interp.statistics import rate_of


def _independent(rate: float, n: int) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = [rate_of(int(count), n) for count in rng.binomial(n, rate, replications)]
        return covered(rate, [(one.low, one.high) for one in found])

    return Setting("rate", f"n {n}, truth {rate:.0%}", "coverage", run, quick=n == 12)


SETTINGS = tuple(_independent(rate, n) for n in (12, 24, 48) for rate in (0.5, 0.9))
