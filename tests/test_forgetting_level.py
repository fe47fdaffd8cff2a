"""The forgetting level: running maximum on the target's validation prompts; it stops training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainerControl, TrainerState

from analyses.runs import matched_step
from interp.errors import TrainingError
from unlearning.training import Bounds, ForgettingCurve, is_scored, target_rate
from unlearning.training.forgetting import BY_TEXT

RATES = st.lists(st.floats(0, 1), min_size=1, max_size=12)
NO_MODEL: Any = SimpleNamespace(model=None)  # planted scores need none


def table(rate: float) -> pd.DataFrame:
    """One scored step: the target's harmful validation prompts at ``rate``, all others at .5."""
    rows = [
        (domain, label, split, 0.5)
        for domain in ("safety", "bias")
        for label in ("harmful", "benign")
        for split in ("validation", "test")
    ]
    found = pd.DataFrame(rows, columns=["domain", "label", "split", "p_R"])
    found.loc[0, "p_R"] = rate
    return found


class Planted:
    """An evaluation whose scores are planted, one table for each call."""

    def __init__(self, rates: Sequence[float]) -> None:
        self.rates = iter(rates)

    def masses(self, _lm: object) -> pd.DataFrame:
        return table(next(self.rates))


def planted(
    rates: Sequence[float], *, concept: str | None = "safety", stop_at: float = 0.9, **options: Any
) -> ForgettingCurve:
    """The callback before training; the base model's rate is .8 by default."""
    return ForgettingCurve(
        NO_MODEL, cast(Any, Planted(rates)), concept, table(options.get("base", 0.8)),
        stop_at=stop_at,
        every_step=options.get("every_step", True), keep=options.get("keep", lambda: None),
    )  # fmt: skip


def run(rates: Sequence[float], **options: Any) -> tuple[ForgettingCurve, int]:
    """The callback after training, and the step at which training ended."""
    scoring = planted(rates, **options)
    state, control = TrainerState(max_steps=len(rates)), TrainerControl()
    while state.global_step < len(rates) and not control.should_training_stop:
        state.global_step += 1
        control = scoring.on_step_end(None, state, control)
    return scoring, state.global_step


@given(RATES.map(lambda rates: [*rates, 0.0, 0.0, *rates]))
def test_a_run_that_never_stops_makes_all_steps_and_keeps_the_last(rates: list[float]) -> None:
    """Also where nothing of the refusal is left, or its level stays where it is."""
    kept: list[int] = []
    scoring, last = run(rates, stop_at=1.0, keep=lambda: kept.append(1))
    assert last == len(rates) and not kept
    scoring.finish()
    assert kept == [1] and scoring.kept_at == last


@given(RATES)
def test_the_forgetting_level_is_the_running_maximum_of_what_was_lost(rates: list[float]) -> None:
    scoring, last = run(rates)
    level = scoring.scores().groupby("step")["dose"].first().to_numpy()
    lost = 1 - np.array(rates[:last]) / 0.8
    assert level == pytest.approx(np.maximum.accumulate([0, *lost]))
    assert scoring.level == level[-1]
    reached = np.flatnonzero(level >= 0.9)
    assert scoring.kept_at == (reached[0] if reached.size else None)


def test_nothing_is_lost_where_nothing_was_refused() -> None:
    scoring, last = run([0.0, 0.1, 0.0], base=0.0)
    scoring.finish()
    assert (scoring.level, scoring.kept_at, last) == (0.0, 3, 3)


def test_the_model_is_kept_at_the_forgetting_level_and_the_curve_goes_on() -> None:
    kept_and_last = {
        (0.7, 0.3, 0.07, 0.0, 0.0): (3, 4),  # .91 gone, then all of it
        (0.7, 0.07, 0.07, 0.07, 0.07): (2, 3),  # half as many steps again
        (0.7, 0.0, 0.0, 0.0): (2, 2),
        (0.0, 0.0, 0.0, 0.0): (1, 2),  # else two points, and no curve
    }
    for rates, (kept, last) in kept_and_last.items():
        scoring, ended = run(rates)
        assert (scoring.kept_at, ended) == (kept, last)
    assert run([0.7, 0.3, 0.05, 0.0], stop_at=0.5)[0].kept_at == 2


def test_the_model_is_kept_once_and_at_the_end_where_the_level_is_not_reached() -> None:
    for rates, concept, wanted in (
        ([0.7, 0.6], "safety", 2),
        ([0.7, 0.05, 0.05, 0.0], "safety", 2),
        ([0.0] * 5, None, 5),
    ):
        kept: list[int | None] = []
        scoring, _ = run(rates, concept=concept, keep=lambda kept=kept: kept.append(1))
        scoring.finish()
        assert scoring.kept_at == wanted and len(kept) == 1


def test_a_run_that_levels_off_below_the_wanted_level_ends_and_keeps_its_last_model() -> None:
    fast = [0.8 - 0.06 * step for step in range(1, 11)]  # .2 is left at step 10
    for rates, kept, last in (
        ([*fast, *[0.2] * 90], 20, 20),  # it rose by less than .02 from step 10 on
        ([*fast, *[0.2 - 0.00165 * step for step in range(1, 91)]], 83, 100),  # slow, but it rises
        ([0.8] * 70 + [0.3] * 30, 100, 100),  # it may begin late
        ([0.7, 0.3, *[0.3] * 40], 20, 20),  # not before twenty steps
        ([*fast, *[0.19] * 9, *[0.07] * 20], 20, 30),  # it reaches the level in time
    ):
        scoring, ended = run(rates)
        scoring.finish()
        assert (scoring.kept_at, ended) == (kept, last), rates
    assert run([*fast, *[0.2] * 90], every_step=False)[1] == 20


def test_the_kept_step_is_the_last_with_text() -> None:
    scores = pd.DataFrame({"step": [0, 1, 2, 3], "class": ["refusal", None, "answer", None]})
    assert matched_step(scores) == 2
    assert matched_step(scores.assign(**{"class": None})) == 3


def test_a_control_arm_has_no_forgetting_level_and_runs_to_its_end() -> None:
    scoring, last = run([0.0] * 5, concept=None)
    assert last == 5 and scoring.level == 0
    assert sorted(scoring.scores()["step"].unique()) == [0, 1, 2, 3, 4, 5]


def test_the_last_step_is_always_scored() -> None:
    for last in (5, 27, 61):
        steps = list(run([0.8] * last, every_step=False)[0].scores()["step"].unique())
        assert steps == [step for step in range(last + 1) if is_scored(step) or step == last]


def test_fewer_steps_are_scored_where_answers_are_generated() -> None:
    scored = [step for step in range(1, 201) if is_scored(step, BY_TEXT)]
    assert scored == [1, 2, 4, 8, 16, 32, 64, 128]


def test_scored_steps_are_log_spaced() -> None:
    scored = [step for step in range(1, 2000) if is_scored(step)]
    assert scored[:12] == list(range(1, 13))
    late = [step for step in scored if step >= 12]
    gaps = np.diff(late)
    assert (np.diff(gaps) >= 0).all()
    # Never coarser than a sixth of the way so far.
    assert (6 * gaps <= late[1:]).all()
    assert len(scored) < 60
    assert sum(map(is_scored, range(1, 41))) == 22 and sum(map(is_scored, range(1, 201))) == 36


def test_only_the_concept_s_harmful_validation_prompts_count() -> None:
    assert target_rate(table(0.3), "safety") == pytest.approx(0.3)
    assert target_rate(table(0.3), "bias") == 0.5


@given(st.sampled_from([0.0, 1e-9, 0.3, 1.0]), st.floats(0, 1))
def test_a_model_that_did_not_change_is_within_every_bound(other: float, bound: float) -> None:
    """Also where a domain never refused."""
    base = leaked(0.9, other, 0.8)
    assert Bounds(leak=bound, utility=bound).hold(base, base, "safety")


class Leaking:
    """An evaluation in which the target, another domain and the answers fall step by step."""

    def __init__(self, rates: Sequence[tuple[float, float, float]]) -> None:
        self.rates = rates
        self.step = 0

    def masses(self, _lm: object) -> pd.DataFrame:
        self.step += 1
        return leaked(*self.rates[self.step - 1])


def leaked(target: float, other: float, answers: float) -> pd.DataFrame:
    found = table(target).assign(p_C=answers)
    found.loc[(found["domain"] == "bias") & (found["label"] == "harmful"), "p_R"] = other
    return found


@pytest.mark.parametrize(
    ("bounds", "stops", "keeps"),
    [(Bounds(leak=0.3), 4, 3), (Bounds(utility=0.2), 5, 4), (Bounds(0.3, 0.2), 4, 3)],
)
def test_a_resumed_bounded_run_equals_an_uninterrupted_one(
    tmp_path: Path, bounds: Bounds, stops: int, keeps: int
) -> None:
    """Bounds compare with step 0, whichever step the run resumes from."""
    rates = [(0.7, 0.75, 0.9), (0.5, 0.7, 0.85), (0.4, 0.6, 0.8), (0.3, 0.5, 0.75), (0.2, 0.4, 0.6)]
    base = leaked(0.8, 0.8, 0.9)

    def curve(done: int, kept: list[int]) -> ForgettingCurve:
        scored = Leaking(rates)
        scored.step = done
        return ForgettingCurve(
            NO_MODEL, cast(Any, scored), "safety", base, stop_at=0.9, every_step=True,
            keep=lambda: kept.append(scored.step), bounds=bounds,
        )  # fmt: skip

    def train(scoring: ForgettingCurve, start: int, end: int) -> int:
        state, control = TrainerState(max_steps=len(rates), global_step=start), TrainerControl()
        while state.global_step < end and not control.should_training_stop:
            state.global_step += 1
            control = scoring.on_step_end(None, state, control)
        return state.global_step

    kept: list[int] = []
    whole = curve(0, kept)
    assert train(whole, 0, len(rates)) == stops and whole.kept_at == keeps
    for cut in range(stops + 1):
        again: list[int] = []
        first = curve(0, again)
        train(first, 0, cut)
        first.save_state(tmp_path)
        resumed = curve(cut, again)
        resumed.load_state(tmp_path)
        end = ForgettingCurve.ended_at(tmp_path) or len(rates)
        assert train(resumed, cut, end) == stops
        assert (resumed.kept_at, resumed.level, again) == (keeps, whole.level, kept)
        pd.testing.assert_frame_equal(resumed.scores(), whole.scores())


def test_no_model_outside_the_bounds_is_kept() -> None:
    kept: list[int] = []
    scoring = ForgettingCurve(
        NO_MODEL, cast(Any, Leaking([(0.1, 0.1, 0.9)])), "safety", leaked(0.8, 0.8, 0.9),
        stop_at=0.9, every_step=True, keep=lambda: kept.append(1), bounds=Bounds(leak=0.3),
    )  # fmt: skip
    scoring.on_step_end(None, TrainerState(max_steps=9, global_step=1), TrainerControl())
    with pytest.raises(TrainingError, match="no step of safety lies within.*--leak-bound 0.3"):
        scoring.finish()
    assert not kept


@settings(max_examples=40)
@given(RATES, st.integers(0, 11), st.sampled_from([0.5, 0.9]))
def test_a_run_that_is_resumed_ends_as_one_that_was_not_interrupted(
    tmp_path_factory: pytest.TempPathFactory, rates: list[float], cut: int, stop_at: float
) -> None:
    """The state after a step is all that the steps after it need."""
    whole, ended = run(rates, stop_at=stop_at)
    kept: list[int] = []
    state, control = TrainerState(max_steps=len(rates)), TrainerControl()
    scoring = planted(rates, stop_at=stop_at, keep=lambda: kept.append(state.global_step))
    while state.global_step < len(rates) and not control.should_training_stop:
        state.global_step += 1
        control = scoring.on_step_end(None, state, control)
        if state.global_step == cut:
            folder = tmp_path_factory.mktemp("state")
            scoring.save_state(folder)
            scoring = planted(
                rates[cut:], stop_at=stop_at, keep=lambda: kept.append(state.global_step)
            )
            scoring.load_state(folder)
    assert state.global_step == ended
    assert (scoring.kept_at, scoring.level) == (whole.kept_at, whole.level)
    assert kept == ([] if whole.kept_at is None else [whole.kept_at])
    columns = ["step", "dose", "domain", "label", "split", "p_R"]
    pd.testing.assert_frame_equal(scoring.scores()[columns], whole.scores()[columns])
