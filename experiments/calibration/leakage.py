"""Leakage at matched forgetting, its area, its equivalence test, and recovery.

Each prompt starts with a probability of refusal and loses it at its own speed. The truth is the
same statistic on 100,000 prompts of that kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from analyses.runs import ArmLeakage, recover
from analyses.runs.leakage import (
    area,
    at_crossing,
    leakage_of,
    relative_drop,
    running_maximum,
    untouched_p_value,
)
from analyses.runs.trajectory import Trajectory
from experiments.calibration.settings import Setting, Tally, covered, rejected

STEPS = np.array([0, 1, 2, 3, 5, 8, 12, 20])
SOURCE = "source"
POPULATION = 100_000
#: Speed at which the source loses its refusals, per step.
SPEED, SOURCE_SHAPE = 0.3, 4.0
#: Standard deviations of a prompt's log speed next to its duplicates, and of the drift of its
#: log-probability that training causes without a mean.
JITTER, DRIFT = 0.2, 0.15


@dataclass(frozen=True)
class Prompts:
    """How prompts of a domain differ.

    Attributes:
        n: number of test prompts of each domain, and of validation prompts of the source.
        shape: of the gamma distribution of speeds; the smaller, the more skewed.
        copies: near-duplicates of each prompt, named as one group.
    """

    n: int
    shape: float = 4.0
    copies: int = 1

    def __str__(self) -> str:
        skewed = ", skewed" if self.shape < 1 else ""
        if self.copies == 1:
            return f"n {self.n}{skewed}"
        return f"n {self.n} in groups of {self.copies}{skewed}"

    def drawn(
        self,
        prompts: np.random.Generator,
        training: np.random.Generator,
        speed: float,
        n: int,
        *,
        source: bool = False,
    ) -> np.ndarray:
        """p_R of n prompts at every step, (n, step); the source's speeds are not skewed.

        Args:
            prompts: draws the prompts; the same for two arms that are scored on the same prompts.
            training: draws what differs between arms.
            speed: mean share that is lost per step.
            n: number of prompts.
            source: whether it is the source.
        """
        groups, shape = n // self.copies, SOURCE_SHAPE if source else self.shape
        base = np.repeat(prompts.beta(8, 1, groups), self.copies)
        speeds = np.repeat(prompts.gamma(shape, 1 / shape, groups), self.copies)
        speeds = speeds * np.exp(JITTER * prompts.normal(size=n)) * speed
        drift = DRIFT * training.normal(size=n) / STEPS[-1] - speeds
        return np.minimum(base[:, None] * np.exp(drift[:, None] * STEPS), 0.999)


@lru_cache
def truth(prompts: Prompts, speed: float) -> Mapping[str, float]:
    """The statistics of a domain that loses its refusals at ``speed``."""
    rng = np.random.default_rng(1)
    level, u = (
        relative_drop(prompts.drawn(rng, rng, s, POPULATION, source=is_source).mean(axis=0))
        for s, is_source in ((SPEED, True), (speed, False))
    )
    level = running_maximum(level)
    return {
        "L_50": float(at_crossing(level, u, 0.5)),
        "L_90": float(at_crossing(level, u, 0.9)),
        "area": float(area(level, u)),
    }


@lru_cache
def speed_of(prompts: Prompts, leakage: float) -> float:
    """The speed at which L_.9 is ``leakage``."""
    from scipy.optimize import brentq

    return float(brentq(lambda s: truth(prompts, s)["L_90"] - leakage, -0.01, 2.0, xtol=1e-4))


def measured_arm(
    rng: np.random.Generator, prompts: Prompts, speeds: Mapping[str, float], seed: int | None = None
) -> ArmLeakage:
    """The leakage of one arm; ``seed`` fixes the prompts."""
    drawn = rng if seed is None else np.random.default_rng(seed)

    def path(speed: float, *, source: bool) -> Trajectory:
        p = prompts.drawn(drawn, rng, speed, prompts.n, source=source)
        unread = np.full((prompts.n, 2), np.nan)
        clusters = np.arange(prompts.n) // prompts.copies
        odds = np.log(p / (1 - p))
        return Trajectory(STEPS, p, odds, p[:, -1], odds[:, -1], unread, clusters)

    of_source = path(SPEED, source=True)
    after = {domain: path(speed, source=False) for domain, speed in speeds.items()}
    return leakage_of(after, of_source, SOURCE)


def _leakage(quantity: str, prompts: Prompts, level: float, *, quick: bool = False) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        speed = speed_of(prompts, level)
        found = [
            measured_arm(rng, prompts, {"other": speed}).estimate(quantity, "other")
            for _ in range(replications)
        ]
        return covered(truth(prompts, speed)[quantity], [(one.low, one.high) for one in found])

    name = f"leakage: {quantity.replace('_', ' at ')}"
    return Setting(name, f"{prompts}, leakage {level:g}", "coverage", run, 1500, quick)


def _untouched(prompts: Prompts, *, quick: bool = False) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        speeds = {"other": speed_of(prompts, 0.05)}
        return rejected(
            untouched_p_value(measured_arm(rng, prompts, speeds).quantities["L_90"]["other"])
            for _ in range(replications)
        )

    name = '"does not leak"'
    return Setting(name, f"{prompts}, leakage .05", "error", run, 1000, quick)


def _recovery(prompts: Prompts, plain: float, kept: float) -> Setting:
    """Six domains; retain data leave a share ``kept`` of the leakage of each."""
    domains = [f"domain {i}" for i in range(6)]

    def arm(rng: np.random.Generator, level: float, seed: int) -> ArmLeakage:
        speeds = dict.fromkeys(domains, speed_of(prompts, level))
        return measured_arm(rng, prompts, speeds, seed)

    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = []
        for _ in range(replications):
            seed = int(rng.integers(2**32))
            before, after = arm(rng, plain, seed), arm(rng, plain * kept, seed)
            found.append(recover(before, after, domains).recovery.estimate())
        return covered(1 - kept, [(one.low, one.high) for one in found])

    setting = f"{prompts}, leakage {plain:g}, truth {1 - kept:.0%}"
    return Setting("recovery", setting, "coverage", run, 400)


PLAIN = [Prompts(12), Prompts(24), Prompts(12, shape=0.5), Prompts(24, shape=0.5), Prompts(100)]
GROUPED = [Prompts(24, copies=2), Prompts(48, copies=4)]
SETTINGS = (
    *(
        _leakage(quantity, prompts, 0.4, quick=quantity in ("L_90", "area") and prompts == PLAIN[2])
        for quantity in ("L_50", "L_90", "area")
        for prompts in [*PLAIN, *GROUPED]
    ),
    *(_leakage("L_90", prompts, level) for prompts in PLAIN[:4] for level in (0.1, 0.8)),
    *(_untouched(prompts, quick=prompts == PLAIN[2]) for prompts in [*PLAIN, *GROUPED]),
    *(
        _recovery(prompts, plain, kept)
        for prompts in (Prompts(12), Prompts(24, shape=0.5), Prompts(48))
        for plain, kept in ((0.2, 0.0), (0.4, 0.5), (0.4, 1.0))
    ),
)
