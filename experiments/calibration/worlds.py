"""Model organisms as units: means over them, predictors' skill, the decomposition of leakage."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import pandas as pd

from analyses.predict import LeakageOutcome, skill
from analyses.predict.accuracy import Skill
from analyses.predict.joint import joint
from analyses.runs import decompose, over_worlds
from experiments.calibration.settings import Setting, Tally, covered, rejected

DOMAINS = 7
NOISE, PERMUTATIONS = 1.0, 199


def _matrix(rng: np.random.Generator, effects: float = 0.5) -> np.ndarray:
    """Leakage between the domains: noise, and effects of sources and of targets."""
    found = rng.normal(size=(DOMAINS, DOMAINS))
    found += effects * (rng.normal(size=(DOMAINS, 1)) + rng.normal(size=(1, DOMAINS)))
    np.fill_diagonal(found, np.nan)
    return found


def _prediction(rng: np.random.Generator, leakage: np.ndarray) -> np.ndarray:
    """A prediction; its quality differs between worlds."""
    return np.asarray(leakage + NOISE * rng.lognormal(0, 0.4) * rng.normal(size=leakage.shape))


@lru_cache
def _true_skill(part: str) -> float:
    rng = np.random.default_rng(1)
    leakages = [_matrix(rng) for _ in range(4000)]
    values = [LeakageOutcome(x).of(_prediction(rng, x)[None], [part])[part][0] for x in leakages]
    return float(np.mean(values))


def _skill(part: str, worlds: int) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = []
        for _ in range(replications):
            leakages = [_matrix(rng) for _ in range(worlds)]
            predictions = [_prediction(rng, leakage) for leakage in leakages]
            outcomes = [LeakageOutcome(leakage) for leakage in leakages]
            found.append(skill(predictions, outcomes, seed=0, permutations=1)[part])
        return covered(_true_skill(part), [(one.low, one.high) for one in found])

    name = f"skill of a predictor: {part.replace('_', ' ')}"
    quick = part == "all_pairs" and worlds < 12
    replications = 1000 if worlds < 12 else 300  # each costs as much as its organisms
    return Setting(name, f"{worlds} model organisms", "coverage", run, replications, quick)


def _skill_of_noise(part: str, worlds: int) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        p_values = []
        for _ in range(replications):
            outcomes = [LeakageOutcome(_matrix(rng)) for _ in range(worlds)]
            noise = [_matrix(rng) for _ in range(worlds)]
            found = skill(noise, outcomes, seed=0, permutations=PERMUTATIONS)
            p_values.append(found[part].p)
        # Permutation p-values are multiples of 1/200, so .05 itself rejects.
        return rejected(p_values, 0.0501)

    name = f"p of a predictor (QAP): {part.replace('_', ' ')}"
    return Setting(name, f"{worlds} model organisms", "error", run, 600)


def _coefficient(worlds: int) -> Setting:
    """The coefficient of the cause next to a proxy of it, which differs between worlds."""

    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = [_joint(rng, worlds)["cause"] for _ in range(replications)]
        return covered(_true_coefficient(), [(one.low, one.high) for one in found])

    return Setting(
        "joint regression: coefficient", f"{worlds} model organisms", "coverage", run, 1500
    )


def _proxy(worlds: int) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        p_values = [_joint(rng, worlds, PERMUTATIONS)["proxy"].p for _ in range(replications)]
        return rejected(p_values, 0.0501)

    setting = f"{worlds} model organisms, a collinear proxy"
    return Setting("joint regression: p (MRQAP)", setting, "error", run, 1000)


def _joint(rng: np.random.Generator, worlds: int, permutations: int = 1) -> Mapping[str, Skill]:
    leakages = [_matrix(rng) for _ in range(worlds)]
    causes = [_matrix(rng) for _ in leakages]
    proxies = [cause + _matrix(rng) for cause in causes]
    slopes = 1 + 0.3 * rng.normal(size=worlds)
    outcomes = [s * c + x for s, c, x in zip(slopes, causes, leakages, strict=True)]
    predictors = {"cause": causes, "proxy": proxies}
    return joint(predictors, outcomes, seed=0, permutations=permutations)


@lru_cache
def _true_coefficient() -> float:
    return float(_joint(np.random.default_rng(1), 3000)["cause"].value)


def _mean(worlds: int, *, skewed: bool = False) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        draw = rng.exponential if skewed else rng.normal
        found = [over_worlds(draw(size=worlds)) for _ in range(replications)]
        return covered(float(skewed), [(one.low, one.high) for one in found])

    setting = f"{worlds} model organisms{', exponential' if skewed else ''}"
    return Setting("mean over model organisms", setting, "coverage", run, 4000, worlds == 2)


def _interaction(seeds: int, effects: float) -> Setting:
    """No interaction, only noise between unlearning seeds."""

    def run(rng: np.random.Generator, replications: int) -> Tally:
        names = [f"d{i}" for i in range(DOMAINS)]
        source, target = np.repeat(names, DOMAINS), np.tile(names, DOMAINS)
        p_values = []
        for _ in range(replications):
            alpha, gamma = effects * rng.normal(size=(2, DOMAINS))
            clean = np.add.outer(alpha, gamma).ravel()
            cells = [
                pd.DataFrame(
                    {"source": source, "target": target, "seed": seed}
                    | {"value": clean + rng.normal(size=clean.size)}
                )
                for seed in range(seeds)
            ]
            p_values.append(decompose(pd.concat(cells)).p_value)
        return rejected(p_values)

    setting = f"{seeds} seeds, main effects {effects:g}"
    return Setting("p of the interaction (F)", setting, "error", run, 800)


SETTINGS = (
    *(_mean(worlds) for worlds in (2, 3, 5, 12)),
    *(_mean(worlds, skewed=True) for worlds in (12,)),
    *(_skill("all_pairs", worlds) for worlds in (2, 3, 5, 12)),
    *(_skill(part, worlds) for part in ("potency", "entanglement") for worlds in (3, 12)),
    *(_skill_of_noise(part, 2) for part in ("all_pairs", "susceptibility", "entanglement")),
    *(_coefficient(worlds) for worlds in (2, 3, 5, 12)),
    *(_proxy(worlds) for worlds in (1, 3)),
    *(_interaction(seeds, effects) for seeds in (2, 3) for effects in (0.0, 2.0)),
)
