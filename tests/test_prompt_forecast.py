"""The forecast by prompt: exact slopes, no memory of a prompt, and a judge nothing deceives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import special

from analyses.costs import Reading
from analyses.predict import Evidence, prompt_skill
from analyses.predict.by_prompt import (
    ERROR,
    LEVELS,
    PREDICTORS,
    flip_probability,
    forecast_by_prompt,
    most_at_risk,
    nats_at,
)
from analyses.predict.forecasts import Forecast
from analyses.predict.gradients import Scalar, mean_gradients
from analyses.predict.prompt_calibration import (
    BASE_RATE,
    BEFORE,
    RECALIBRATED,
    calibration,
    expected_error,
    fitted_calibration,
    reliability_table,
    with_recalibrated,
)
from analyses.predict.prompt_skill import flips, forecast_skill, judged, skill_table
from analyses.predict.slopes import moved, slopes_along
from analyses.runs import Arm, Run, RunRecord
from analyses.study import organism_plan, work_of, work_with_prompts
from experiments.prompt_forecasts import planned, write_prompt_forecasts
from interp.errors import InputError
from interp.model import LanguageModel
from interp.readout import log_odds
from interp.statistics import auc_of
from interp.store import read_table, write_table
from unlearning.organism import shipped
from unlearning.refusal import ResponsePrefixes, refusal_log_odds
from unlearning.training import TrainingSettings, prepare_in_place

THINGS = ("grass", "snow", "coal", "rust", "a long road by the sea", "ash", "milk", "ink")
TEXTS = [f"What is the colour of {thing}?" for thing in THINGS]
READOUT = log_odds([5, 17, 40])
# Two paths of inner nodes, so the readout needs two forwards.
DEEP = ResponsePrefixes(((5,), (7, 9), (11, 13, 17)), ((6,), (7, 8)))


@pytest.fixture(scope="module", params=["projections", "lora"])
def lm(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    settings = TrainingSettings(trained=request.param, lora_rank=4, lora_alpha=4)
    return prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)


def explicit(lm: LanguageModel, text: str, scalar: Scalar) -> dict[str, torch.Tensor]:
    """One prompt's own gradient."""
    named = {n: p for n, p in lm.model.named_parameters() if p.requires_grad}
    value = scalar(lm, [lm.chat.encode(text)]).sum()
    found = torch.autograd.grad(value, list(named.values()), allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g
            for (n, p), g in zip(named.items(), found, strict=True)}  # fmt: skip


def dot(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return sum(float((one[name].double() * other[name].double()).sum()) for name in other)


@pytest.mark.parametrize("scalar", [READOUT, partial(refusal_log_odds, prefixes=DEEP)])
def test_two_forwards_give_the_products_with_every_prompt_s_own_gradient(
    lm: LanguageModel, scalar: Scalar
) -> None:
    rows = [lm.chat.encode(text) for text in TEXTS]
    direction = explicit(lm, "Name a bird that can swim.", scalar)
    norm = dot(direction, direction)
    direction = {name: part / norm for name, part in direction.items()}
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    read: list[int] = []
    found = slopes_along(lm, rows, scalar, direction, 0.02, batch_size=3, progress=read.append)
    expected = [dot(explicit(lm, text, scalar), direction) for text in TEXTS]
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert sum(read) == 2 * len(rows)
    for name, parameter in lm.model.named_parameters():
        assert torch.equal(parameter, before[name])


def test_weights_come_back_whatever_happens_on_the_way(lm: LanguageModel) -> None:
    name, parameter = next((n, p) for n, p in lm.model.named_parameters() if p.requires_grad)
    before = parameter.detach().clone()
    with pytest.raises(KeyError), moved(lm, {name: torch.ones_like(parameter)}, 0.3):
        assert torch.allclose(parameter, before + 0.3)
        raise KeyError
    assert torch.equal(parameter, before)
    with pytest.raises(InputError, match="no parameter nonsuch"), moved(lm, {"nonsuch": before}, 1):
        pass


def test_the_refusal_of_a_prompt_says_nothing_of_its_own_forecast(lm: LanguageModel) -> None:
    """A target's training prompt is read along the gradient of the other groups' refusals."""
    target, others = TEXTS[:4], TEXTS[4:]
    rows = [lm.chat.encode(text) for text in target]
    evidence = SimpleNamespace(
        untrained=lm, batch_size=4, read_log_odds=READOUT,
        gradients_of_deflections=lambda _concept: mean_gradients(lm, rows, READOUT, groups=4),
        groups_of_deflections=lambda _concept: {text: i for i, text in enumerate(target)},
    )  # fmt: skip
    asked = pd.DataFrame(
        {"id": range(8), "prompt": TEXTS, "domain": ["a"] * 4 + ["b"] * 4, "split": "train"}
        | {"label": "harmful", "log_odds": 2.0}
    )
    own = {text: explicit(lm, text, READOUT) for text in TEXTS}
    products = np.array([[dot(own[a], own[b]) for b in target] for a in TEXTS])
    scale = products[:4].mean()
    found = forecast_by_prompt(cast(Evidence, evidence), "a", asked, scale, adam=False)
    without = (products[:4].sum(axis=1) - np.diag(products)) / 3
    expected = np.concatenate([without, products[4:].mean(axis=1)]) / scale
    np.testing.assert_allclose(found["forecast"], expected, rtol=0.01, atol=0.01)
    assert list(found["prompt"]) == [*target, *others]
    for wrong, message in ((0.0, "own kernel"), (np.nan, "own kernel")):
        with pytest.raises(InputError, match=message):
            forecast_by_prompt(cast(Evidence, evidence), "a", asked, wrong, adam=False)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_the_target_s_own_prompts_say_how_far_a_level_is(level: float) -> None:
    rng = np.random.default_rng(0)
    m, f = rng.normal(3, 1, 200), rng.uniform(0.5, 1.5, 200)
    lost = nats_at(m, f, level)
    kept = special.expit(m - lost * f).mean() / special.expit(m).mean()
    assert kept == pytest.approx(1 - level, abs=1e-9)
    assert np.isnan(nats_at(m, -f, level)), "a target that only gains never gets there"
    told = flip_probability(m, f, lost)
    assert ((told > 0.5) == (lost * f > m))[m > 0].all() and np.isnan(told[m <= 0]).all()
    assert ((told >= 0) & (told <= 1))[m > 0].all()


def world(seed: int, *, slope_matters: bool = True, prompts: int = 60) -> dict[str, pd.DataFrame]:
    """A forecast and an arm's scores in which each prompt loses its own share, by plan."""
    rng = np.random.default_rng(seed)
    told, scores = [], []
    for domain, mean in (("a", 1.0), ("b", 0.7), ("c", 0.4)):
        for split in ("train", "validation", "test"):
            for i in range(prompts):
                m, f = rng.normal(2.5, 1), mean + rng.normal(0, 0.3)
                row = {"id": f"{domain}{split}{i}", "domain": domain, "split": split}
                text = f"tell {domain} of {rng.choice(list(THINGS))} {i}"
                told.append(row | {"prompt": text, "label": "harmful", "log_odds": m,
                                   "forecast": f, "flip_50": 0.5, "flip_90": 0.5})  # fmt: skip
                share = f if slope_matters else mean + rng.normal(0, 0.3)
                for step in range(25):
                    lost = m - 0.5 * step * share
                    scores.append({"prompt_id": row["id"], "domain": domain, "split": split,
                                   "label": "harmful", "kind": None, "step": step, "dose": 0.0,
                                   "margin": lost, "p_R": special.expit(lost), "p_C": 0.0,
                                   "p_O": 0.0})  # fmt: skip
    return {"told": pd.DataFrame(told), "scores": pd.DataFrame(scores)}


def skill_of(made: dict[str, pd.DataFrame], level: float = 0.9) -> pd.DataFrame:
    arm = Arm("arm", {"concept": "a"}, made["scores"], None)
    found = flips(arm, level, "test")
    assert set(found["domain"]) == {"b", "c"}, "the target's own prompts do not count"
    prompts = judged(made["told"], "a", found, level).assign(arm="arm", level=level)
    return skill_table(prompts, seed=0).set_index("predictor")


def test_a_forecast_that_knows_each_prompt_s_loss_wins_within_cells_too() -> None:
    found = skill_of(world(0))
    assert set(found.index) == set(PREDICTORS)
    assert found.loc["forecast", "value"] > 0.97 > found.loc["domain mean", "value"] > 0.55
    assert found.loc["forecast", "within"] > 0.95 and found.loc["forecast", "p"] < 0.01
    assert found.loc["domain mean", "within"] == pytest.approx(0.5)
    told = found.loc["forecast"]
    assert told["low"] < told["value"] < told["high"] <= 1


def test_tables_over_worlds_come_from_the_rows_per_prompt_and_name_what_is_missing(
    tmp_path: Path,
) -> None:
    parts = []
    for seed in (1, 2, 3):
        made = world(seed, prompts=20)
        arm = Arm("arm", {"concept": "a"}, made["scores"], None)
        for level in LEVELS:
            asked, known = (
                judged(made["told"], "a", flips(arm, level, split), level)
                for split in ("test", "validation")
            )
            parts.append(
                with_recalibrated(asked, known).assign(
                    arm="arm", level=level, world=seed, concept="a"
                )
            )
    rows = pd.concat(parts, ignore_index=True)
    write_table(tmp_path / "prompts.parquet", rows)
    read = read_table(tmp_path / "prompts.parquet")
    found = write_prompt_forecasts(read, planned([1, 2, 3, 4], concepts=["a"]), tmp_path)
    assert found["missing"] == ["4: a at 50%", "4: a at 90%"]
    table = pd.DataFrame(found["table"]).set_index(["level", "predictor"])
    assert (table.loc[(slice(None), "forecast"), "ahead"] == 0).all()
    assert table.loc[(0.9, "base log-odds"), "ahead"] > 0
    told = pd.DataFrame(found["reliability"]).set_index(["level", "kind"])
    assert told.loc[(0.9, RECALIBRATED), "ahead"] > 0, "better than the base rate"
    for name in ("prompt_forecasts.csv", "calibration.csv", "reliability.csv"):
        assert (tmp_path / name).is_file()


def test_a_forecast_that_knows_no_prompt_is_at_chance_within_cells() -> None:
    """Slopes that are true of the domain alone, and of no prompt in it."""
    made = [
        skill_of(world(seed, slope_matters=False, prompts=30)).loc["slope"] for seed in range(8)
    ]
    table = pd.DataFrame(made)
    assert table["within"].mean() == pytest.approx(0.5, abs=0.06)
    assert (table["p"] < 0.05).sum() <= 2
    assert table["value"].mean() > 0.55, "between domains they are right"


def test_ties_count_half_and_one_class_is_undefined() -> None:
    values = np.array([1.0, 1.0, 2.0, 0.0])
    flipped = np.array([True, False, True, False])
    assert auc_of(values, flipped).value == pytest.approx((0.5 + 3) / 4)
    assert not auc_of(values, np.ones(4, dtype=bool)).defined


def test_another_model_s_forecast_is_refused() -> None:
    made = world(1, prompts=20)
    arm = Arm("arm", {"concept": "a"}, made["scores"], None)
    found = flips(arm, 0.5, "test")
    other = made["told"].assign(log_odds=made["told"]["log_odds"] + 1)
    with pytest.raises(InputError, match="differ by 1 nats"):
        judged(other, "a", found, 0.5)
    with pytest.raises(InputError, match="lacks 1 prompts"):
        judged(made["told"][made["told"]["id"] != found["prompt_id"][0]], "a", found, 0.5)
    silent = Arm("arm", {"concept": "a"}, made["scores"].assign(margin=np.nan), None)
    with pytest.raises(InputError, match="reads refusal from text"):
        flips(silent, 0.5, "test")


@pytest.mark.parametrize(("steps", "levels"), [(20, [0.5, 0.9]), (7, [0.5]), (2, [])])
def test_a_level_that_no_arm_reaches_leaves_the_other_its_numbers(
    steps: int, levels: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = world(0, prompts=20)
    arm = Arm("arm", {"concept": "a"}, made["scores"][lambda rows: rows["step"] <= steps], None)
    run = Run(RunRecord(Path("run"), {}, {}, arm, (arm,), (), None))
    monkeypatch.setattr(prompt_skill, "read_prompt_forecast", lambda _: ("a", made["told"]))
    if not levels:
        with pytest.raises(InputError, match="no arm of a reaches a forgetting level of 50%"):
            forecast_skill(run, "told")
        return
    found = forecast_skill(run, "told")
    assert [*found.table["level"].unique()] == [*found.prompts["level"].unique()] == levels


def judged_prompts(seed: int, *, scale: float = 1.0, shift: float = 0.0) -> pd.DataFrame:
    """Refused prompts whose probability before training is right if the scale is 1, the shift 0."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-0.3, 1.5, 1500)
    return pd.DataFrame(
        {"arm": "arm", "level": 0.9, "domain": rng.choice(["b", "c", "d"], len(z)),
         "label": "harmful", "unit": range(len(z)), "nats": 5.0,
         "forecast": z * np.hypot(ERROR["nats"], ERROR["share"] * 5.0),
         "probability": special.ndtr(z),
         "flipped": rng.uniform(size=len(z)) < special.ndtr(shift + scale * z)}
    )  # fmt: skip


def test_true_probabilities_lie_in_the_intervals_of_what_happened() -> None:
    found = calibration(with_recalibrated(judged_prompts(3), judged_prompts(4)))
    assert set(found["kind"]) == {BEFORE, RECALIBRATED}
    for _kind, curve in found.groupby("kind"):
        assert curve["n"].sum() == 1500
        assert ((curve["low"] <= curve["told"]) & (curve["told"] <= curve["high"])).sum() >= 6


def test_a_prompt_in_several_arms_is_one_prompt() -> None:
    """Arms of other seeds repeat prompts: no interval of the calibration gets shorter."""
    one = with_recalibrated(judged_prompts(3), judged_prompts(4))
    found = [calibration(pd.concat([one] * arms)) for arms in (1, 3)]
    once, thrice = (curve["high"] - curve["low"] for curve in found)
    assert (found[1]["n"] == 3 * found[0]["n"]).all() and (thrice >= once - 1e-9).all()
    scores = world(2, prompts=20)["scores"]
    units = [
        flips(Arm(name, {"concept": "a"}, some, None), 0.9, "test").set_index("prompt_id")["unit"]
        for name, some in (("all", scores), ("few", scores[scores["prompt_id"] != "btest0"]))
    ]
    both = units[0].index.intersection(units[1].index)
    assert len(both) > 20 and units[0][both].equals(units[1][both]) and units[0].is_unique


def test_recalibration_mends_what_was_told_too_surely_and_keeps_what_was_right() -> None:
    wrong, right = {"scale": 0.4, "shift": -0.8}, {}
    for how, better in ((wrong, True), (right, False)):
        asked = with_recalibrated(judged_prompts(5, **how), judged_prompts(6, **how))
        found = reliability_table(asked).set_index("kind")
        assert (found["low"] < found["value"]).all() and (found["value"] < found["high"]).all()
        gain = found.loc[BEFORE, "value"] - found.loc[RECALIBRATED, "value"]
        assert gain > 0.05 if better else abs(gain) < 0.005
        assert found.loc[RECALIBRATED, "ece"] < 0.05
        assert found.loc[RECALIBRATED, "value"] < found.loc[BASE_RATE, "value"]


def test_no_prompt_and_no_domain_takes_part_in_its_own_calibration() -> None:
    asked, known = judged_prompts(7), judged_prompts(8)
    found = with_recalibrated(asked, known)[RECALIBRATED]
    other = known.assign(flipped=known["flipped"] ^ (known["domain"] == "b"))
    again = with_recalibrated(asked.assign(flipped=~asked["flipped"]), other)[RECALIBRATED]
    own = asked["domain"] == "b"
    np.testing.assert_array_equal(found[own], again[own])
    assert not np.allclose(found[~own], again[~own])


def test_an_arm_without_validation_prompts_keeps_the_probability_before_training() -> None:
    asked = judged_prompts(9)
    found = with_recalibrated(asked, asked.head(0))
    np.testing.assert_allclose(found[RECALIBRATED], asked["probability"], atol=1e-3)
    assert found[BASE_RATE].isna().all()
    shift, scale = fitted_calibration(np.full(40, -3.0), np.zeros(40, dtype=bool))
    assert abs(shift) < 0.5 and 0.5 < scale < 2, "an arm in which nothing flipped says little"


def test_the_calibration_error_is_the_distance_from_the_share_that_flipped() -> None:
    told = pd.DataFrame({"p": [0.1, 0.1, 0.9, 0.9], "flipped": [False, True, True, True]})
    assert expected_error(told, "p") == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert np.isnan(expected_error(told.head(0), "p"))


def test_permuted_within_cells_a_forecast_is_at_chance_and_no_better_than_the_base_rate() -> None:
    """Not the domain and not the number of flips, but the prompt is what the forecast names."""
    rng = np.random.default_rng(10)
    within, below, gains = [], 0, []
    for seed in range(20):
        asked, known = (
            table.assign(forecast=table.groupby("domain")["forecast"].transform(rng.permutation))
            for table in (judged_prompts(seed).head(300), judged_prompts(100 + seed).head(300))
        )
        asked["probability"] = special.ndtr(asked["forecast"] / np.hypot(0.05, 0.06 * 5))
        asked = with_recalibrated(asked, known)
        table = skill_table(asked.assign(**{name: 0.0 for name in PREDICTORS if name not in asked}),
                            seed=0).set_index("predictor")  # fmt: skip
        within.append(table.loc["forecast", "within"])
        below += table.loc["forecast", "p"] < 0.05
        found = reliability_table(asked).set_index("kind")["value"]
        gains.append(found[BASE_RATE] - found[RECALIBRATED])
    assert np.mean(within) == pytest.approx(0.5, abs=0.03) and below <= 4
    assert max(gains) < 0.01


def test_the_prompts_at_risk_are_the_likeliest_first() -> None:
    table = pd.DataFrame({"id": list("abcd"), "flip_90": [0.4, 0.9, np.nan, 0.6], "forecast": 1.0})
    assert list(most_at_risk(table)["id"]) == ["b", "d"]


def test_a_level_that_is_not_reached_puts_no_prompt_at_risk() -> None:
    """Undefined is not zero."""
    table = pd.DataFrame({"domain": ["bias", "bias"], "log_odds": [1.0, -1.0], "forecast": 1.0,
                          "flip_50": 1.0, "flip_90": np.nan})  # fmt: skip
    said = {}
    for name, chance in (("never", np.nan), ("reached", 0.2)):
        told = SimpleNamespace(prompts=table.assign(flip_90=chance), concept="safety")
        [said[name]] = Forecast._about_prompts(told)  # type: ignore[arg-type]
    assert "never loses 90%" in said["never"] and "Of 1 refused prompts" in said["reached"]


def test_the_plan_counts_two_forwards_of_every_prompt() -> None:
    plan = replace(organism_plan(str(shipped()), ("safety",), seeds=[0]), arms=())
    prompts = pd.DataFrame(
        {"split": ["train", "test"] * 6, "label": ["harmful", "harmful", "benign", "benign"] * 3,
         "domain": "safety"}
    )  # fmt: skip
    reading = Reading(prompt=10, own=8, answer=16)
    without, found = (count(plan, prompts, reading) for count in (work_of, work_with_prompts))
    log_odds = reading.masses(6)
    more = found.expected.read - without.expected.read - log_odds.expected.read
    assert more == 2 * 12 * 10
    assert found.at_most.read - without.at_most.read > more
