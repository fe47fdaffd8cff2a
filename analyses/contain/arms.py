"""The arms of a containment study: every method, amount of data and weight on every split.

A study makes them in two rounds. The first searches each method's weight, with all retained
examples on the first two splits, from the smallest weight on. The second trains every amount of
data on every split with that weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.contain.methods import METHODS, Containment, Method
from analyses.study import ArmPlan
from interp.errors import InputError

if TYPE_CHECKING:
    from unlearning.training import TrainingSettings

Split = tuple[tuple[str, ...], tuple[str, ...]]
"""Retained and held-out domains."""

LEFT_OUT = 3
SPLITS = 6
EXAMPLES = (8, 32, 128)
WEIGHING_SPLITS = 2


@dataclass(frozen=True)
class Design:
    """The varied settings of a containment study.

    Attributes:
        concept: the target.
        methods: names in ``METHODS``.
        examples: numbers of retained deflections for methods that choose, in addition to all.
        weights: of the retain term; a single weight needs no search.
        splits: retained and held-out domains.
        training: settings that all arms share.
        left_out: domains with too few deflections to retain; every split holds them out.
    """

    concept: str
    methods: tuple[str, ...]
    examples: tuple[int, ...]
    weights: tuple[float, ...]
    splits: tuple[Split, ...]
    training: TrainingSettings
    left_out: tuple[str, ...] = ()

    def without(self, short: Collection[str]) -> Design:
        """The design if the domains ``short`` have too few deflections to be retained.

        Raises:
            InputError: no domain is left to retain.
        """
        splits: dict[tuple[str, ...], Split] = {}
        for retained, held_out in self.splits:
            kept = tuple(name for name in retained if name not in short)
            more = tuple(name for name in retained if name in short)
            if kept:  # splits that differ in short domains only are one split
                splits.setdefault(kept, (kept, (*held_out, *more)))
        if not splits:
            raise InputError(
                f"{', '.join(short)} have too few refusals to train on, so no domain is left to "
                "retain; give more prompts with --prompts or more samples with --samples"
            )
        return replace(self, splits=tuple(splits.values()), left_out=tuple(short))

    def by_text(self) -> Design:
        """The design without the methods that read refusal log-odds.

        Raises:
            InputError: no method is left.
        """
        return self._with_methods(
            [name for name in self.methods if not METHODS[name].needs_log_odds],
            "need refusal log-odds, and refusal is read from the text of answers; give other "
            "--methods, or the words that all answers share with --response-prefix",
        )

    def contrasting(self, domains: Collection[str]) -> Design:
        """The design without the methods that need mean differences of other domains than these.

        Raises:
            InputError: no method is left.
        """
        retained = {name for kept, _ in self.splits for name in kept}

        def possible(name: str) -> bool:
            return set(METHODS[name].contrasts(self.concept, sorted(retained))) <= set(domains)

        return self._with_methods(
            [name for name in self.methods if possible(name)],
            "need four harmful and four benign training prompts of the domains whose states they "
            "read; give more with --prompts, or other --methods",
        )

    def _with_methods(self, kept: Sequence[str], why: str) -> Design:
        if not kept:
            raise InputError(f"{', '.join(self.methods)} {why}")
        return replace(self, methods=tuple(kept))

    @property
    def plain(self) -> ArmPlan:
        """The same unlearning without containment."""
        name = f"{self.concept}-{self.training.objective}-seed{self.training.seed}"
        return ArmPlan(name, self.concept, self.training)

    def weighing(self) -> dict[str, list[list[ArmPlan]]]:
        """For each method whose weight is searched: the arms of each weight."""
        if len(self.weights) < 2:
            return {}
        names = dict.fromkeys(METHODS[name].weight_like or name for name in self.methods)
        numbers = range(min(WEIGHING_SPLITS, len(self.splits)))
        return {
            name: [
                [self.arm(name, number, weight=weight) for number in numbers]
                for weight in sorted(self.weights)
            ]
            for name in names
            if METHODS[name].weighted
        }

    def arms(self, weights: Mapping[str, float]) -> list[ArmPlan]:
        """Every method and amount of data on every split.

        With all examples nothing can be chosen, so only equal shares train on all of them.
        """
        found = []
        for name in self.methods:
            method = METHODS[name]
            amounts: list[int | None] = list(self.examples) if method.chooses else []
            if method.on_all or not method.chooses:
                amounts.append(None)
            weight = weights.get(method.weight_like or name, self.weights[0])
            found += [
                self.arm(name, number, weight=weight, examples=amount)
                for amount in amounts
                for number in range(len(self.splits))
            ]
        return found

    def made(self, tried: int | None = None) -> tuple[ArmPlan, ...]:
        """The arms of a study whose search tries this many weights (None: all of them)."""
        searched = list(self.weighing().values())
        weighed = [arm for weights in searched for arms in weights[:tried] for arm in arms]
        chosen = self.arms(dict.fromkeys(METHODS, self.weights[0]))
        return (self.plain, *weighed, *chosen, self.whole(chosen[0]))

    def everything(self) -> list[ArmPlan]:
        """Every possible arm, for any result of the weight search."""
        weighed = [arm for by in self.weighing().values() for arms in by for arm in arms]
        found = [self.plain, *weighed]
        for weight in self.weights:
            found += self.arms(dict.fromkeys(METHODS, weight))
        return list({arm.name: arm for one in found for arm in (one, self.whole(one))}.values())

    def plan_lines(self) -> list[str]:
        """The number of arms of each method: on the splits, for its weight, and in the end."""
        searched = self.weighing()
        chosen = self.arms(dict.fromkeys(METHODS, self.weights[0]))
        lines = []
        for name in self.methods:
            compared = sum(one.containment.method == name for one in chosen if one.containment)
            weighed = sum(map(len, searched.get(name, [])))
            option = METHODS[name].about.option
            line = f"method {option}: {compared} arms on {len(self.splits)} splits"
            lines.append(line + (f", and at most {weighed} to find its weight" if weighed else ""))
        others = [name for name in searched if name not in self.methods]
        lines += [
            f"method {METHODS[name].about.option}: at most {sum(map(len, searched[name]))} arms to "
            "find the weight that others use"
            for name in others
        ]
        return [
            *lines,
            "one plain arm, and one arm of the recommended method on all domains (where none is "
            "recommended, it and its tests are left out, and the run takes less time)",
        ]

    def whole(self, arm: ArmPlan) -> ArmPlan:
        """The arm that retains every other domain, for use after the choice of a method."""
        if arm.containment is None:
            return arm
        contained, training = arm.containment, arm.training
        weight = training.retain_weight if training and contained.how.weighted else 1.0
        return self.arm(contained.method, None, weight=weight, examples=contained.examples)

    def arm(
        self, name: str, number: int | None, *, weight: float = 1.0, examples: int | None = None
    ) -> ArmPlan:
        """One contained arm, on the split of this number; None retains every other domain."""
        method = METHODS[name]
        training = replace(self.training, **_settings(method, weight))
        parts = [self.concept, self.training.objective, name]
        parts += [f"w{weight:g}"] if method.weighted else []
        parts += [f"{examples}" if examples else "all"] if method.retains else []
        retained, held_out = self.splits[number or 0]
        every = tuple(one for one in (*retained, *held_out) if one not in self.left_out)
        where = "whole" if number is None else f"split{number}"
        return ArmPlan(
            "-".join([*parts, where, f"seed{training.seed}"]),
            self.concept,
            training,
            retain=every if number is None else retained,
            containment=Containment(name, examples, number),
        )


def _settings(method: Method, weight: float) -> dict[str, Any]:
    changes = dict(method.changes)
    return changes | ({"retain_weight": weight} if method.weighted else {})


def require_methods(names: Sequence[str]) -> tuple[str, ...]:
    """The names, checked, each once.

    Raises:
        InputError: a method does not exist; the error lists the known ones.
    """
    if not names:
        raise InputError(f"no containment method; expected some of {', '.join(METHODS)}")
    return tuple(dict.fromkeys(METHODS.find(name).about.name for name in names))


def held_out_splits(
    domains: Sequence[str], *, count: int = SPLITS, left_out: int = LEFT_OUT, seed: int = 0
) -> tuple[Split, ...]:
    """``count`` different splits, in complementary pairs.

    So every domain is held out about as often as it is retained. With fewer than six domains, half
    are held out.

    Raises:
        InputError: fewer than two domains, or fewer different splits than ``count``.
    """
    names = tuple(domains)
    if len(names) < 2:
        raise InputError(
            f"containment needs retained and held-out domains: expected at least two other "
            f"domains, found {', '.join(names) or 'none'}"
        )
    size = min(left_out, len(names) // 2)
    rng = np.random.default_rng(seed)
    found: dict[frozenset[str], Split] = {}
    for _ in range(100 * count):
        order = [names[i] for i in rng.permutation(len(names))]
        for held in (order[:size], order[size : 2 * size]):
            if len(found) < count:
                kept = tuple(name for name in names if name not in held)
                out = tuple(name for name in names if name in held)
                found.setdefault(frozenset(held), (kept, out))
        if len(found) == count:
            return tuple(found.values())
    raise InputError(
        f"{len(names)} other domains have {len(found)} ways to leave {size} of them out; "
        f"{count} splits are too many"
    )
