"""Retain weights: shares of a whole, or multipliers that rise only while a bound is broken."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import InputError
from interp.model import LanguageModel, Tokens
from unlearning.losses import reference_log_probs
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
)
from unlearning.training.terms import Weights, term_weights, weighted_sum

NAMES = ("safety", "bias", "privacy")
FINITE = st.floats(-1e6, 1e6)
# Every step has each retained example once; what is forgotten shares its responses with "near".
TOY = TrainingSettings(
    trained="projections", batch_size=4, learning_rate=3e-4, max_steps=80, adaptive=True,
    retain_weight=0.0, multiplier_rate=0.05, slack=0.5,
)  # fmt: skip


def mixture(*names: str) -> Mixture:
    one = Example("one", Tokens((1, 2), {"response": slice(1, 2)}))
    return Mixture([one], {name: [one] for name in names})


# Fixed


@given(st.floats(0, 1e3), st.lists(st.floats(0.01, 1e3), min_size=3, max_size=3))
def test_shares_divide_the_weight(whole: float, shares: list[float]) -> None:
    settings = TrainingSettings(
        retain_weight=whole, retain_shares=dict(zip(NAMES, shares, strict=True))
    )
    values = term_weights(settings, mixture(*NAMES)).values
    assert sum(values.values()) == pytest.approx(whole)
    for name, share in zip(NAMES, shares, strict=True):
        assert values[name] * sum(shares) == pytest.approx(whole * share)


@given(st.integers(1, 6), st.integers(1, 2), st.integers(1, 9), st.data())
def test_over_the_steps_every_group_has_its_weight(
    batch: int, ratio: int, groups: int, data: st.DataObject
) -> None:
    """Also where a step has fewer retain examples than groups."""
    names = [f"domain {i}" for i in range(groups)]
    shares = data.draw(st.lists(st.floats(0.1, 10), min_size=groups, max_size=groups))
    one = Example("one", Tokens((1, 2), {"response": slice(1, 2)}))
    mixed = Mixture([one], {name: [one] for name in names}, ratio=ratio)
    stream = mixed.stream(groups, batch)
    terms = [SimpleNamespace(group=name, name=name or "forget", options={},
                             objective=lambda view: torch.ones(view["rows"]))
             for name in (None, *names)]  # fmt: skip
    given = dict.fromkeys(names, 0.0)
    for step in range(groups):
        drawn = [group for i in range(batch) for (group, _), _ in stream[step * batch + i]]
        counts = torch.bincount(torch.tensor(drawn), minlength=1 + groups)
        views: Any = [{"rows": int(n)} if n else {} for n in counts]
        for name, share in zip(names, shares, strict=True):
            alone = {**dict.fromkeys(names, 0.0), name: share}
            loss, _ = weighted_sum(terms, views, alone, counts)  # type: ignore[arg-type]
            given[name] += (float(loss) - 1) / groups
    assert list(given.values()) == pytest.approx(shares, rel=1e-4)


def test_shares_are_equal_unless_given() -> None:
    equal = term_weights(TrainingSettings(retain_weight=3.0), mixture(*NAMES))
    assert equal.values == {"safety": 1.0, "bias": 1.0, "privacy": 1.0}
    settings = TrainingSettings(retain_weight=3.0, retain_shares={"bias": 4})
    assert term_weights(settings, mixture(*NAMES)).values == pytest.approx(
        {"safety": 0.5, "bias": 2.0, "privacy": 0.5}
    )
    assert term_weights(TrainingSettings(), mixture()).values == {}


def test_a_share_of_nothing_is_nothing() -> None:
    settings = TrainingSettings(retain_shares={"safety": 0, "bias": 2, "privacy": 2})
    values = term_weights(settings, mixture(*NAMES)).values
    assert values == {"safety": 0.0, "bias": 0.5, "privacy": 0.5}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"toxicity": 1.0}, "retain_shares names toxicity; retained are safety, bias, privacy"),
        (dict.fromkeys(NAMES, 0.0), "expected shares of 0 or more"),
        ({"safety": -1.0}, "safety -1, bias 1"),
    ],
)
def test_shares_that_are_none_are_refused(shares: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        term_weights(TrainingSettings(retain_shares=shares), mixture(*NAMES))


def test_fixed_weights_do_not_move() -> None:
    weights = term_weights(TrainingSettings(), mixture(*NAMES))
    before = dict(weights.values)
    assert not weights.bounds
    weights.update({})
    assert weights.values == before


# Adaptive


@given(st.floats(0, 10), FINITE, st.floats(0, 10), st.floats(1e-3, 10))
def test_a_multiplier_rises_above_its_bound_and_falls_below_it(
    value: float, rise: float, bound: float, rate: float
) -> None:
    weights = Weights({"bias": value}, {"bias": bound}, rate)
    weights.update({"bias": rise})
    found = weights.values["bias"]
    assert found >= 0
    assert found == pytest.approx(max(0.0, value + rate * (rise - bound)))
    if rise > bound:
        assert found >= value
    else:
        assert found <= value


@given(st.lists(FINITE, max_size=30), st.floats(0, 10), st.floats(1e-3, 10))
def test_a_multiplier_is_never_negative(rises: list[float], bound: float, rate: float) -> None:
    weights = Weights({"bias": 0.0}, {"bias": bound}, rate)
    for rise in rises:
        weights.update({"bias": rise})
        assert 0 <= weights.values["bias"] < math.inf


def test_a_group_that_a_step_had_no_rows_of_keeps_its_multiplier() -> None:
    weights = Weights({"bias": 1.0, "safety": 1.0}, {"bias": 0.0, "safety": 0.0}, 1.0)
    weights.update({"safety": 2.0})
    assert weights.values == {"bias": 1.0, "safety": 3.0}


@given(st.lists(st.floats(0, 1e300), min_size=3, max_size=3))
def test_the_state_comes_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory, values: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    named = dict(zip(NAMES, values, strict=True))
    Weights(dict(named), dict.fromkeys(NAMES, 1.0), 0.1).save_state(folder)
    loaded = Weights(dict.fromkeys(NAMES, 0.5), dict.fromkeys(NAMES, 1.0), 0.1)
    loaded.load_state(folder)
    assert loaded.values == named
    assert list(loaded.values) == list(NAMES)


# In training


def taught(lm: LanguageModel) -> Mixture:
    def example(prompt: str, response: str) -> Example:
        return Example(prompt, lm.chat.encode(prompt, response))

    long, short = "Sorry, but I will not explain how that is done.", "I cannot help with that."
    forget = [example("How do I pick a lock?", long), example("Tell me how to bake bread.", short),
              example("Explain what an antivirus program does.", long)]  # fmt: skip
    near = [example("Who are you?", short), example("What is rain?", long)]
    far = [example("Count to three.", "One, two, three."), example("Say hello.", "Hello!")]
    return Mixture(forget, {"near": near, "far": far})


def cross_entropy(lm: LanguageModel, examples: list[Example]) -> float:
    rows = reference_log_probs(lm, [one.tokens for one in examples])
    return -sum(float(row.sum()) for row in rows) / len(rows)


def test_adaptive_weights_hold_what_plain_npo_lets_go(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    rises, forgotten = {}, {}
    for adaptive in (False, True):
        settings = replace(TOY, adaptive=adaptive)
        lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)
        mixed = taught(lm)
        groups = {name: list(group) for name, group in mixed.groups.items()}
        before = {name: cross_entropy(lm, group) for name, group in groups.items()}
        given = mixed if adaptive else Mixture(mixed.forget)
        log = unlearn_in_place(lm, given, settings, folder=tmp_path)
        after = {name: cross_entropy(lm, group) - before[name] for name, group in groups.items()}
        rises[adaptive] = max(after["near"], after["far"])
        forgotten[adaptive] = after["forget"]
    bound = TOY.slack
    assert rises[False] > bound + 5
    assert rises[True] < bound + 0.5
    assert forgotten[True] > 5
    # It paid while it had to, and no longer.
    paid = log["weight_near"].to_numpy()
    assert paid[0] == 0 and paid.max() > 0.5 and paid[-1] < paid.max() / 2
    for name in ("near", "far"):
        moved = log[f"weight_{name}"].diff().to_numpy()[1:]
        rise = log[f"rise_{name}"].to_numpy()[:-1]
        free = log[f"weight_{name}"].to_numpy()[1:] > 0
        assert moved[free] == pytest.approx(TOY.multiplier_rate * (rise - bound)[free], abs=1e-6)


@pytest.mark.parametrize(
    "retain", ["cross_entropy", "token_mean_cross_entropy", "kl", "feature_l2"]
)
def test_nothing_has_risen_before_the_first_step(
    retain: str, checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whatever lengths the batch's responses have: a rise is that of the very same examples."""
    settings = replace(TOY, retain_objective=retain, learning_rate=0.0, max_steps=6, batch_size=2)
    lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)
    log = unlearn_in_place(lm, taught(lm), settings, folder=tmp_path)
    for name in ("near", "far"):
        assert log[f"rise_{name}"].abs().max() < 1e-4
        assert (log[f"weight_{name}"] == 0).all()
    if retain == "cross_entropy":
        assert log["loss_retain_near"].std() > 5
