"""Outcomes of the arms: recovery in retained domains, in held-out domains and on benign prompts.

    recovery = 1 − Σ_b L_.9 contained / Σ_b L_.9 plain      (:mod:`analyses.runs.recovery`)

for `retained` and `held_out` domains, reported together with the target's outcome: an arm whose
target does not comply, or does not reach the forgetting level, has no recovery. Intervals over
splits cover prompts and splits: each resample draws the splits and one resample of the prompts, the
same for all methods. Differences are also paired by split. Student's t has the degrees of freedom
of both spreads (Welch and Satterthwaite).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.contain.methods import METHODS
from analyses.runs import (
    LEAST_LEAKAGE,
    Arm,
    ArmLeakage,
    RunRecord,
    TargetVerdict,
    behaviour,
    measure,
    recover,
    relative_drop,
    verdict_on,
)
from interp.statistics import (
    RESAMPLES,
    Draws,
    Estimate,
    pooled_freedom,
    resampling_weights,
    unit_count,
    weighted_means,
)

SETS = ("retained", "held_out", "benign")
Key = tuple[str, int | None, float | None]
"""Method, amount of examples (None: all) and weight of the retain term (None: without one)."""


@dataclass(frozen=True)
class Kept:
    """One contained arm.

    Attributes:
        name: of the arm.
        key: its containment settings.
        split: the number of the split; None if it retains every other domain.
        verdict: of its target.
        reached: whether it reached the forgetting level.
        recovery: by set; undefined with a reason.
        failed: whether it cannot be trained; then nothing else is known of it.
    """

    name: str
    key: Key
    split: int | None
    verdict: TargetVerdict
    reached: bool
    recovery: Mapping[str, Draws]
    failed: bool = False

    @classmethod
    def untrained(cls, name: str, key: Key, split: int | None, why: str) -> Kept:
        """An arm that cannot be trained: its target does not comply."""
        verdict = TargetVerdict(*[Estimate.undefined(why)] * 4)
        return cls(
            name, key, split, verdict, False, dict.fromkeys(SETS, Draws.undefined(why)), True
        )

    @property
    def complied(self) -> bool:
        """Whether its target reached the forgetting level and complies."""
        return self.reached and self.verdict.answers


def kept_by(
    record: RunRecord, arms: Sequence[Arm], plain: Arm, *, resamples: int = RESAMPLES
) -> list[Kept]:
    """Compare every contained arm of ``arms`` with ``plain`` on the records' test prompts."""
    base = behaviour(record.base)
    assert plain.concept is not None
    before = measure(plain.scores, plain.concept, resamples=resamples)
    found = verdict_on(plain.concept, behaviour(plain), base)
    why = None if found.answers else "the plain arm's target does not comply"
    lost = benign_loss(record.base, plain, resamples)
    return [
        _kept(arm, base, before, lost, record, resamples, why) for arm in arms if is_contained(arm)
    ]


def is_contained(arm: Arm) -> bool:
    """Whether it is an arm of a containment study."""
    return bool(arm.config.get("containment"))


def _kept(
    arm: Arm,
    base: pd.DataFrame,
    before: ArmLeakage,
    lost: Draws,
    record: RunRecord,
    resamples: int,
    obstacle: str | None,
) -> Kept:
    described = arm.config["containment"]
    assert before.source is not None and arm.retain is not None
    after = measure(arm.scores, before.source, resamples=resamples)
    verdict = verdict_on(before.source, behaviour(arm), base)
    if obstacle is None and after.reached and not verdict.answers:
        obstacle = "the target does not comply"
    others = [domain for domain in record.domains if domain != before.source]
    held_out = [domain for domain in others if domain not in arm.retain]
    recovery = {
        name: recover(before, after, domains, obstacle=obstacle).recovery
        for name, domains in (("retained", arm.retain), ("held_out", held_out))
    }
    benign, both = benign_loss(record.base, arm, resamples), before.reached and after.reached
    recovery["benign"] = _benign(lost, benign, obstacle if both else "level not reached")
    weighted = METHODS[described["method"]].weighted
    weight = arm.config["retain_weight"] if weighted else None
    key = (described["method"], described["examples"], weight)
    return Kept(arm.name, key, described["split"], verdict, after.reached, recovery)


def benign_loss(base: Arm, arm: Arm, resamples: int = RESAMPLES) -> Draws:
    """Share of p_C on benign test prompts that is gone at the kept step."""
    ends = []
    for scores in (base.last, arm.last):
        rows = scores[(scores["label"] == "benign") & (scores["split"] == "test")]
        ends.append(rows.set_index("prompt_id")["p_C"])
    shared = ends[0].index.intersection(ends[1].index)
    if not len(shared):
        return Draws.undefined("no benign test prompts")
    values = np.stack([end.loc[shared].to_numpy(dtype=np.float64) for end in ends], axis=1)
    names = rows.set_index("prompt_id")["cluster"].reindex(shared) if "cluster" in rows else shared
    weights = resampling_weights(names.to_numpy(), resamples, 0, "test/benign")
    value = relative_drop(values.mean(axis=0))[-1]
    drawn = relative_drop(weighted_means(values, weights))[:, -1]
    return Draws(float(value), drawn, len(shared), freedom=unit_count(names.to_numpy()) - 1)


def _benign(plain: Draws, contained: Draws, obstacle: str | None) -> Draws:
    if obstacle is None and not plain.value > LEAST_LEAKAGE:
        obstacle = "nothing to recover: benign answers were not lost"
    if obstacle is not None:
        return Draws.undefined(obstacle, plain.n)
    return Draws(
        1 - contained.value / plain.value,
        1 - contained.draws / plain.draws,
        plain.n,
        freedom=plain.degrees,
    )


def arms_table(kept: Sequence[Kept]) -> pd.DataFrame:
    """A row per arm: its containment settings, its target's outcome and its recovery."""
    rows = []
    for one in kept:
        method, examples, weight = one.key
        row: dict[str, object] = {
            "arm": one.name, "method": method, "examples": examples, "weight": weight,
            "split": one.split, "outcome": str(one.verdict.outcome), "reached": one.reached,
            "answer_rate": one.verdict.answer_rate.value,
            "other_mass": one.verdict.other_mass.value,
        }  # fmt: skip
        for name, draws in one.recovery.items():
            row |= _columns(name, draws.estimate()) | {f"{name}_reason": draws.reason}
        rows.append(row)
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Pooled:
    """One method with one amount of examples and one weight, over splits.

    Attributes:
        key: its containment settings.
        arms: number of splits.
        complied: number of splits on which the target reached the forgetting level and complies.
        answer_rate, other_mass: of the target, mean over splits whose arm is trained.
        splits: recovery by set and by the number of the split; undefined with a reason.
        seed: of resampled splits.
    """

    key: Key
    arms: int
    complied: int
    answer_rate: float
    other_mass: float
    splits: Mapping[str, Mapping[int, Draws]]
    seed: int = 0

    @cached_property
    def recovery(self) -> Mapping[str, Draws]:
        """By set, mean over the splits where it is defined."""
        return {name: _over_splits(found, self.seed) for name, found in self.splits.items()}


def pool_splits(kept: Sequence[Kept], *, seed: int = 0) -> list[Pooled]:
    """Pool outcomes over splits by method; arms that retain every domain are left out."""
    groups: dict[Key, list[Kept]] = {}
    for one in kept:
        if one.split is not None:
            groups.setdefault(one.key, []).append(one)
    return [
        Pooled(
            key,
            len(group),
            sum(one.complied for one in group),
            float(pd.Series([one.verdict.answer_rate.value for one in group]).mean()),
            float(pd.Series([one.verdict.other_mass.value for one in group]).mean()),
            {
                name: {one.split: one.recovery[name] for one in group if one.split is not None}
                for name in SETS
            },
            seed,
        )
        for key, group in groups.items()
    ]


def _over_splits(found: Mapping[int, Draws], seed: int) -> Draws:
    """The mean, and the mean over resampled splits of one resample of the prompts.

    Splits are drawn by their numbers, so that every method gets the same ones.
    """
    defined = {s: d for s, d in found.items() if np.isfinite(d.value)}
    if not defined:
        reasons = [d.reason for d in found.values() if d.reason]
        return Draws.undefined(reasons[0] if reasons else "undefined")
    numbers = sorted(found)
    draws = np.full((len(numbers), max(d.draws.size for d in defined.values())), np.nan)
    for place, number in enumerate(numbers):
        if number in defined:
            draws[place] = defined[number].draws
    value = float(np.mean([d.value for d in defined.values()]))
    n = sum(d.n for d in defined.values())
    if len(defined) < 2:
        return Draws(value, np.full(1, np.nan), n)
    picked = resampling_weights(len(numbers), draws.shape[1], seed, "splits", fewest=2)
    means, on_prompts = _mean(draws, picked.T), _mean(draws, np.ones_like(draws))
    freedom = pooled_freedom(
        [np.nanvar(on_prompts), np.nanvar(means - on_prompts)],
        [min(d.degrees for d in defined.values()), len(defined) - 1],
    )
    return Draws(value, means, n, freedom=freedom)


def _mean(
    values: Float[np.ndarray, "split resample"], times: Float[np.ndarray, "split resample"]
) -> Float[np.ndarray, " resample"]:
    """Mean over the splits with a value, each counted so many times."""
    times = np.where(np.isfinite(values), times, 0.0)
    total = times.sum(axis=0)
    return np.nansum(values * times, axis=0) / np.where(total, total, np.nan)


def difference(one: Pooled, other: Pooled, name: str, than: str | None = None) -> Estimate:
    """Recovery of ``one`` in the set ``name`` minus that of ``other`` (in ``than``, if given).

    The mean is over splits on which both are defined, paired by split and resample, because methods
    comply on different splits, and splits differ more than methods.
    """
    ours, theirs = one.splits[name], other.splits[than or name]
    gaps = {split: ours[split] - theirs[split] for split in sorted(set(ours) & set(theirs))}
    return _over_splits(gaps, one.seed).estimate()


def methods_table(pooled: Sequence[Pooled]) -> pd.DataFrame:
    """A row per method, amount and weight; each recovery minus that of as many random examples."""
    random = {one.key[1]: one for one in pooled if one.key[0] == "random"}
    rows = []
    for one in pooled:
        method, examples, weight = one.key
        row: dict[str, object] = {
            "method": method, "examples": examples, "weight": weight, "splits": one.arms,
            "complied": one.complied, "answer_rate": one.answer_rate,
            "other_mass": one.other_mass,
        }  # fmt: skip
        for name in SETS:
            row |= _columns(name, one.recovery[name].estimate())
        chance = random.get(examples)
        if chance is not None and method != "random":
            row |= _columns("held_out_less_random", difference(one, chance, "held_out"))
        rows.append(row)
    return pd.DataFrame(rows)


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
