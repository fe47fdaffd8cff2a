"""Shares of prompts: rates, their change, agreement of readings, and the AUC of the log-odds."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.special import ndtri

from analyses.evaluate import separation
from analyses.evaluate.estimates import paired_difference
from analyses.evaluate.findings import refused_by
from experiments.calibration.settings import Setting, Tally, covered
from interp.statistics import rate_of, share_of, share_ratio_bounds
from unlearning.scoring import class_agreement, kappa_gain, scorer_agreement


def _rate(rate: float, n: int) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = [rate_of(int(count), n) for count in rng.binomial(n, rate, replications)]
        return covered(rate, [(one.low, one.high) for one in found])

    return Setting("rate", f"n {n}, truth {rate:.0%}", "coverage", run, 4000, n == 12)


def _grouped_rate(rate: float, groups: int, size: int, correlation: float) -> Setting:
    """Groups of prompts with this intraclass correlation (beta-binomial)."""

    def run(rng: np.random.Generator, replications: int) -> Tally:
        named = np.repeat(np.arange(groups), size)
        found = []
        for _ in range(replications):
            own = np.full(groups, rate)
            if correlation:
                weight = 1 / correlation - 1
                own = rng.beta(rate * weight, (1 - rate) * weight, groups)
            readings = rng.random(groups * size) < np.repeat(own, size)
            found.append(share_of(readings.astype(float), named))
        return covered(rate, [(one.low, one.high) for one in found])

    setting = f"{groups} groups of {size}, correlation {correlation:g}, truth {rate:.0%}"
    return Setting("rate of grouped prompts", setting, "coverage", run, 1000, size == 4)


def _paired(
    rng: np.random.Generator, before: float, after: float, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Readings before and after: a prompt refuses after only if it did before."""
    first = rng.random(n) < before
    return first.astype(float), (first & (rng.random(n) < after / before)).astype(float)


def _text_drop(before: float, after: float, n: int) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = []
        for _ in range(replications):
            first, second = _paired(rng, before, after, n)
            found.append(share_ratio_bounds(second, first))
        return covered(after / before, found)

    setting = f"n {n}, {before:.0%} to {after:.0%}"
    return Setting("share of refusals that is gone", setting, "coverage", run, 1000, n == 12)


def _change(before: float, after: float, n: int) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        pairs = [_paired(rng, before, after, n) for _ in range(replications)]
        found = [paired_difference(second, first) for first, second in pairs]
        return covered(after - before, [(one.low, one.high) for one in found])

    setting = f"n {n}, {before:.0%} to {after:.0%}"
    return Setting("difference of paired rates", setting, "coverage", run, 1000)


def _agreement(measure: str, n: int, right: float, refusals: float, copies: int = 1) -> Setting:
    """A reading that is right with one probability in both classes."""

    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = []
        for _ in range(replications):
            truth = np.repeat(rng.random(n // copies) < refusals, copies).astype(int)
            correct = np.repeat(rng.random(n // copies) < right, copies)
            groups = np.repeat(np.arange(n // copies), copies)
            said = np.where(correct, truth, 1 - truth)
            found.append(scorer_agreement(truth, said, groups)[measure])
        expected = _expected(measure, right, refusals)
        return covered(expected, [(one.low, one.high) for one in found])

    copied = f" in groups of {copies}" if copies > 1 else ""
    setting = f"n {n}{copied}, right {right:.0%}, refusals {refusals:.0%}"
    quick = n == 24 and measure in ("kappa", "recall")
    return Setting(f"agreement: {measure}", setting, "coverage", run, 1000, quick)


def _expected(measure: str, right: float, refusals: float) -> float:
    said = refusals * right + (1 - refusals) * (1 - right)
    by_chance = refusals * said + (1 - refusals) * (1 - said)
    values = {
        "accuracy": right,
        "recall": right,
        "precision": refusals * right / said,
        "kappa": (right - by_chance) / (1 - by_chance),
    }
    return values[measure]


def _three_classes(n: int, right: float, refusals: float, copies: int = 1) -> Setting:
    """A reading of three classes, a tenth of them partial, with errors towards any class."""
    labels = np.array([0, 0.5, 1])
    truths = np.array([0.9 - refusals, 0.1, refusals])
    table = truths[:, None] * (right * np.eye(3) + (1 - right) / 3)
    weights = 1 - np.abs(np.subtract.outer(labels, labels))
    by_chance = table.sum(axis=1) @ weights @ table.sum(axis=0)
    expected = float(((table * weights).sum() - by_chance) / (1 - by_chance))

    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = []
        for _ in range(replications):
            drawn = rng.choice(9, p=table.ravel() / table.sum(), size=n // copies)
            truth, said = (np.repeat(labels[one], copies) for one in np.divmod(drawn, 3))
            groups = np.repeat(np.arange(n // copies), copies)
            found.append(class_agreement(truth, said, groups)["kappa"])
        return covered(expected, [(one.low, one.high) for one in found])

    copied = f" in groups of {copies}" if copies > 1 else ""
    setting = f"n {n}{copied}, right {right:.0%}, refusals {refusals:.0%}"
    return Setting("agreement: weighted kappa", setting, "coverage", run, 1000)


def _kappa_gain(n: int, better: float, other: float) -> Setting:
    """Two readings of the same answers, right with two probabilities."""

    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = []
        for _ in range(replications):
            truth = (rng.random(n) < 0.5).astype(int)
            one, two = (
                np.where(rng.random(n) < right, truth, 1 - truth) for right in (better, other)
            )
            found.append(kappa_gain(truth, one, two))
        expected = _expected("kappa", better, 0.5) - _expected("kappa", other, 0.5)
        return covered(expected, [(one.low, one.high) for one in found])

    setting = f"n {n}, right {better:.0%} and {other:.0%}"
    return Setting("agreement: difference of kappas", setting, "coverage", run, 500)


@lru_cache
def _separate(auc: float) -> float:
    """Distance of two normal distributions with this AUC."""
    return float(np.sqrt(2) * ndtri(auc))


def _auc(auc: float, n: int, refused: float) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        first = np.arange(n) < round(n * refused)
        found = []
        for _ in range(replications):
            log_odds = rng.normal(size=n) + _separate(auc) * first
            columns = {"split": "test", "margin": log_odds, refused_by("one"): first.astype(float)}
            found.append(separation(pd.DataFrame(columns), "one"))
        return covered(auc, [(one.low, one.high) for one in found])

    setting = f"n {n}, {refused:.0%} refused, truth {auc:g}"
    return Setting("AUC of the log-odds", setting, "coverage", run, 500, n == 12 and auc > 0.9)


SETTINGS = (
    *(_rate(rate, n) for n in (12, 24, 48) for rate in (0.5, 0.9, 0.95)),
    *(
        _grouped_rate(rate, groups, size, correlation)
        for groups, size in ((12, 4), (24, 2))
        for correlation in (0.0, 0.5)
        for rate in (0.5, 0.9)
    ),
    *(
        _text_drop(before, after, n)
        for n in (12, 24, 50)
        for before, after in ((1.0, 0.05), (0.95, 0.5), (0.8, 0.4))
    ),
    *(
        _change(before, after, n)
        for n in (12, 24, 50)
        for before, after in ((0.9, 0.1), (0.8, 0.4))
    ),
    *(
        _agreement(measure, n, right, refusals)
        for measure in ("accuracy", "precision", "recall", "kappa")
        for n in (24, 100)
        for right, refusals in ((0.9, 0.5), (0.95, 0.3))
    ),
    *(_agreement(measure, 48, 0.9, 0.5, 2) for measure in ("accuracy", "recall", "kappa")),
    *(_three_classes(n, 0.9, refusals) for n in (24, 100) for refusals in (0.45, 0.7)),
    _three_classes(48, 0.9, 0.45, 2),
    *(_kappa_gain(n, 0.95, other) for n in (24, 100) for other in (0.9, 0.5)),
    *(_auc(auc, n, 0.5) for n in (12, 24, 48) for auc in (0.75, 0.96)),
    _auc(0.9, 24, 0.25),
)
