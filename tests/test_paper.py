"""The paper as a preset: its numbers, its grid, R3, and a reproduction from end to end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from analyses.predict.by_state import first_component
from analyses.reproduce import derived, published
from analyses.reproduce.choice import grid_table
from analyses.reproduce.comparison import difference_of
from analyses.reproduce.entanglement import _band, entanglement, layer_of
from analyses.reproduce.figures import entanglement_figure
from analyses.reproduce.measured import derived_from, rates_of
from analyses.reproduce.plan import PaperArm, Planned, ProtocolOptions, planned
from analyses.reproduce.protocol import (
    MODELS,
    PAPER_GRID,
    UTILITY_DROP,
    UTILITY_POINTS,
    Setting,
    recognised,
)
from analyses.reproduce.published import MISTRAL, QWEN
from analyses.runs import Arm
from analyses.study import ArmPlan
from interp.errors import InputError
from interp.statistics import rate_of
from interp.store import read_json
from tests.conftest import Spillover
from unlearning.data import DOMAINS
from unlearning.organism import load_world, shipped

SOME = ("cybersecurity", "safety", "bias")
CYBER, SAFETY = DOMAINS.index("cybersecurity"), DOMAINS.index("safety")


def shares(model: str, *arm: Any) -> np.ndarray:
    row = published.find(model, *arm)
    assert row is not None
    return row.scores / 100


def test_the_published_table_says_what_was_read_in_it() -> None:
    leaks: dict[int, list[float]] = {CYBER: [], SAFETY: []}
    skill, profile, recovered = [], [], []
    for model in (MISTRAL, QWEN):
        base = shares(model)
        for concept, target in (("cybersecurity", CYBER), ("safety", SAFETY)):
            npo, tuned = (shares(model, concept, one) for one in ("npo", "fine_tuning"))
            leaks[target] += [float(derived.leak_ratio(base, x, target)) for x in (npo, tuned)]
            skill.append(float(derived.base_rate_skill(base, npo, target)))
            profile.append(float(derived.profile_correlation(base, npo, tuned, target)))
        for one in ("npo", "fine_tuning"):
            plain, kept = (shares(model, "safety", one, retained) for retained in (False, True))
            recovered.append(float(derived.recovery(base, plain, kept, SAFETY)))
    low, high = 0.045, 0.11
    assert all(low < ratio < high for ratio in leaks[CYBER])
    assert all(0.36 < ratio < 0.5 for ratio in leaks[SAFETY])
    assert np.round(recovered, 2).tolist() == [0.63, 1.34, 0.38, 0.79]
    assert np.round(skill, 2).tolist() == [0.83, 0.83, 0.40, 0.93]
    assert np.round(profile, 2).tolist() == [0.96, 0.95, 0.50, 0.91]
    of_cyber, of_safety = (shares(MISTRAL, one, "npo") for one in ("cybersecurity", "safety"))
    found = derived.asymmetry(shares(MISTRAL), of_cyber, of_safety, CYBER, SAFETY)
    assert found == pytest.approx(0.27)  # 57 points against 30


def test_derived_quantities_are_the_same_one_by_one_and_on_resamples() -> None:
    rng = np.random.default_rng(0)
    base, after, other = rng.uniform(0.05, 0.95, size=(3, 5, 7))
    for function, tables, options in (
        (derived.leak_ratio, (base, after), {"target": 2}),
        (derived.recovery, (base, after, other), {"target": 0}),
        (derived.base_rate_skill, (base, after), {"target": 1}),
        (derived.profile_correlation, (base, after, other), {"target": 6}),
    ):
        together = cast(Any, function)(*tables, **options)
        apart = [cast(Any, function)(*(t[i] for t in tables), **options) for i in range(5)]
        assert np.allclose(together, apart)


def fewest_prompts(percentages: np.ndarray, most: int = 1000) -> int | None:
    """The smallest n ≥ 50 of which every percentage is a share, to the digits that are printed.

    The test of Brown and Heathers (GRIM, 2017), for shares; rounded or cut off. None where no n up
    to ``most`` fits.
    """
    return next((n for n in range(50, most + 1) if not unfitting(percentages, n)), None)


def unfitting(percentages: np.ndarray, n: int) -> list[float]:
    """Those of the percentages that are no share of ``n``."""
    shares = 100 * np.arange(n + 1) / n
    return [float(p) for p in percentages if not _is_share(float(p), shares)]


def _is_share(percentage: float, shares: np.ndarray) -> bool:
    digits = len(f"{percentage:.10g}".partition(".")[2])
    scaled = shares * 10**digits
    printed = round(percentage * 10**digits)
    # A share may be exact in decimals and off by an ulp in floating point.
    near = np.abs(scaled - printed)
    return bool(((near <= 0.5 + 1e-9) | ((scaled >= printed) & (near < 1 - 1e-9))).any())


def test_which_percentages_are_no_shares() -> None:
    def column(domain: str) -> np.ndarray:
        return np.array([row.refusal[domain] for row in published.TABLE])

    assert unfitting(column("cybersecurity"), 100) == [7.5, 69.5]
    assert fewest_prompts(column("sensitive")) == 114
    assert unfitting(column("medical_legal"), 96) == [21.85]
    assert fewest_prompts(column("safety")) is None
    assert unfitting(np.array([row.over_refusal for row in published.TABLE]), 250)
    # What was made as a share of n, and printed rounded or cut off, is found to be one.
    for n in (60, 113):
        made = 100 * np.arange(0, n, 7) / n
        assert not unfitting(np.round(made, 2), n)
        assert not unfitting(np.floor(made * 10) / 10, n)


def test_rows_that_break_the_papers_own_rule() -> None:
    broken = set()
    for row in published.TABLE:
        base = published.find(row.model)
        assert base is not None
        if base.mmlu - row.mmlu >= UTILITY_POINTS:
            broken.add((row.model, *row.arm))
    assert broken == {
        (QWEN, "safety", "fine_tuning", False),
        (MISTRAL, "safety", "fine_tuning", True),
        (QWEN, "safety", "fine_tuning", True),
    }


def test_the_difference_of_two_shares_is_newcombes() -> None:
    found = difference_of(rate_of(56, 70), rate_of(48, 80))  # his example (a), method 10
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)


def test_the_grid_is_the_papers() -> None:
    plain, retained = (PAPER_GRID.points(retained=flag) for flag in (False, True))
    assert (len(plain), len(retained)) == (36, 108)
    assert len({point.name for point in (*plain, *retained)}) == 144
    assert PAPER_GRID.headline().points(retained=False) == plain[:1]
    assert Setting(128, 5e-5, 10, 32).steps(620) == 200


def test_the_papers_models_are_recognised(tmp_path: Path) -> None:
    assert recognised("mistralai/Mistral-7B-Instruct-v0.3") is MODELS["mistral"]
    assert recognised("qwen/qwen2.5-7b-instruct") is MODELS["qwen"]
    cached = tmp_path / "models--Qwen--Qwen2.5-7B-Instruct" / "snapshots" / "abc"
    assert recognised(str(cached)) is MODELS["qwen"]
    assert recognised(str(tmp_path)) is None
    assert recognised("Qwen/Qwen2.5-1.5B-Instruct") is None


@pytest.fixture(scope="module")
def world() -> pd.DataFrame:
    return load_world(shipped()).prompts(train=40, validation=8, test=8)


def plan_for(hub_id: str, prompts: pd.DataFrame, **given: Any) -> Planned:
    return planned(ProtocolOptions(hub_id, recognised(hub_id), **given), prompts)


def test_qwens_safety_arms_are_trained_without_lora(world: pd.DataFrame) -> None:
    for key, full in (("mistral", False), ("qwen", True)):
        found = plan_for(MODELS[key].hub_id, world)
        trained = {arm.concept: arm.plan.training for arm in found.arms}
        assert trained["cybersecurity"] and trained["safety"]
        assert (trained["cybersecurity"].trained, trained["cybersecurity"].lora_alpha) == (
            "lora",
            128,
        )
        assert trained["safety"].trained == ("all" if full else "lora")
    arms = {arm.arm: arm.plan for arm in found.arms}
    rows = {row.arm for row in published.TABLE if row.concept}
    assert set(arms) == rows  # the paper's arms, and no other
    assert set(arms["safety", "npo", True].retain) == set(DOMAINS) - {"safety"}
    assert arms["safety", "npo", False].retain == ()
    options = [arm.training and dict(arm.training.options) for arm in arms.values()]
    assert options == [{"beta": 0.1}, {}] * 3


def test_what_cannot_be_made_is_left_out_with_its_reason(world: pd.DataFrame) -> None:
    mistral = MODELS["mistral"].hub_id
    bare = plan_for(mistral, world.drop(columns="compliance"))
    assert {arm.objective for arm in bare.arms} == {"npo"}
    assert {one.objective for one in bare.left_out} == {"fine_tuning"}
    assert all("compliance" in one.why for one in bare.left_out)

    harmful = plan_for(mistral, world[world["label"] == "harmful"])
    assert bare.study.bounds == (None, UTILITY_DROP) and harmful.study.bounds == (None, None)

    alone = planned(
        ProtocolOptions(mistral), world, {"safety": 40, "cybersecurity": 20, "bias": 31}
    )
    assert {arm.arm for arm in alone.arms} == {
        ("safety", "npo", False),
        ("safety", "fine_tuning", False),
    }
    reasons = {one.arm: one.why for one in alone.left_out}
    assert "32" in reasons["cybersecurity", None, False]
    assert "no other domain" in reasons["safety", "npo", True]
    steps = [arm.plan.training and arm.plan.training.max_steps for arm in alone.arms]
    assert steps == [20, 20]  # 10 epochs of two batches
    (one, *others), why = alone.arms, "the loss is nan"
    left = alone.without({one.plan.name: why})
    assert list(left.arms) == others and left.left_out[:-1] == alone.left_out
    assert left.left_out[-1].arm == one.arm and left.left_out[-1].why.endswith(why)
    with pytest.raises(InputError, match="32 are needed"):
        planned(ProtocolOptions(mistral, concepts=("bias",)), world, {"bias": 31})


def test_values_in_the_presets_place_are_named(world: pd.DataFrame) -> None:
    found = plan_for(MODELS["qwen"].hub_id, world, axes={"ranks": (16,), "epochs": (1,)})
    assert {arm.setting.rank for arm in found.arms} == {16}
    departures = ProtocolOptions("x", axes={"ranks": (16,)}, stop_at=0.9).departures
    assert len(departures) == 2 and "16" in departures[0] and "90%" in departures[1]
    # A value of the paper's own grid is none, but for the arms that it trained without adapters.
    assert not ProtocolOptions("x", MODELS["mistral"], axes={"ranks": (256,)}).departures
    assert len(ProtocolOptions("x", MODELS["qwen"], axes={"ranks": (256,)}).departures) == 1


def scored(name: str, refused: Mapping[tuple[str, str], float], benign: float = 0.9) -> Arm:
    """An arm whose rates are these, by split and domain."""
    rows = [
        {"step": 0, "split": split, "domain": domain, "label": "harmful", "refused": rate,
         "class": "answer", "p_C": 0.5, "prompt_id": f"{split}-{domain}"}
        for (split, domain), rate in refused.items()
    ]  # fmt: skip
    rows.append(
        {"step": 0, "split": "validation", "domain": "general", "label": "benign", "refused": 0.0,
         "class": "answer", "p_C": benign, "prompt_id": "general"}
    )  # fmt: skip
    return Arm(name, {}, pd.DataFrame(rows), None)


def test_the_grid_is_chosen_from_on_validation_prompts() -> None:
    def rates(validation: float, test: float) -> dict[tuple[str, str], float]:
        found = {("validation", "safety"): validation, ("test", "safety"): test}
        return found | {(split, "bias"): 0.8 for split in ("validation", "test")}

    base = scored("base", rates(1.0, 1.0))
    arms = {
        "good": scored("good", rates(0.1, 0.3)),
        "lucky": scored("lucky", rates(0.2, 0.0)),
        "broken": scored("broken", rates(0.0, 0.0), benign=0.5),
    }
    setting = Setting(128, 5e-5, 10, 32)
    asked = [PaperArm("safety", "npo", False, setting, ArmPlan(name)) for name in arms]
    table = grid_table(asked, arms, base).set_index("arm")
    assert list(table.index[table["chosen"]]) == ["good"]
    assert list(table.index[table["best_on_test"]]) == ["lucky"]
    assert not table.loc["broken", "within"]


def test_r3_is_the_predictors() -> None:
    rng = np.random.default_rng(0)
    states = {d: rng.normal(size=(20, 3, 12)) + rng.normal(size=12) for d in ("a", "b", "c")}
    contrasts = {
        d: SimpleNamespace(positive=one, negative=rng.normal(size=one.shape))
        for d, one in states.items()
    }
    lm = SimpleNamespace(n_layers=3)
    evidence = SimpleNamespace(contrasts=contrasts, domains=tuple(contrasts), lm=lm)
    expected = first_component(cast(Any, evidence))
    for layer in range(3):
        found = entanglement({d: one[:, layer] for d, one in states.items()}, permutations=2)
        assert np.allclose(found.cosine, expected[f"uncentred, layer {layer}"])


def test_r3s_null_holds_noise_and_not_a_planted_concept() -> None:
    rng = np.random.default_rng(1)
    mean = 3 * rng.normal(size=32)  # as real states: all on one side of the origin
    noise = {str(d): mean + rng.normal(size=(30, 32)) for d in range(6)}
    off = ~np.eye(6, dtype=bool)
    found = entanglement(noise, halves=4)
    assert ((found.cosine < found.low) | (found.cosine > found.high))[off].mean() < 0.05
    assert found.stability.mean() < 0.6

    direction = np.linalg.qr(rng.normal(size=(32, 1)))[0][:, 0]
    planted = dict(noise)
    planted["0"] = noise["0"] + 6 * rng.exponential(size=(30, 1)) * direction
    planted["1"] = noise["1"] + 8 * direction
    found = entanglement(planted, halves=4)
    assert found.cosine[0, 1] > found.high[0, 1]
    assert found.stability[0] > 0.8 and found.explained[0] > 0.3


def test_r3_of_one_concept_has_no_null() -> None:
    states = np.random.default_rng(3).normal(size=(20, 12))
    found = entanglement({"safety": states}, halves=2, permutations=2)
    [row] = found.to_dataframe().to_dict("records")
    assert np.isnan([row["null_low"], row["null_high"]]).all()
    assert np.isfinite([row["cosine"], row["stability"], row["explained"]]).all()
    layers = found.to_dataframe().assign(layer=0)
    assert len(entanglement_figure(layers, 0, ["safety"]).axes) == 1


def test_one_map_in_twenty_has_an_entry_outside_the_band() -> None:
    """Whatever the entries' means and scales, and however they depend on one another."""
    rng = np.random.default_rng(2)
    off = ~np.eye(7, dtype=bool)
    outside, repeats = 0, 600
    for _ in range(repeats):
        maps = rng.normal(size=(60, 7, 7)) + rng.normal(size=(60, 1, 1))
        maps = maps * np.arange(1, 8) + 10 * np.arange(7)[:, None]
        low, high = _band(maps)
        outside += ((maps[0] < low) | (maps[0] > high))[off].any()
    # 5% of 600 is 30, with a standard deviation of 5.
    assert 14 <= outside <= 46


def test_the_papers_layer_in_other_models() -> None:
    assert layer_of(5, 32) == layer_of(5, 28) == 4
    assert layer_of(5, 4) == 0


def answers(right: float) -> pd.DataFrame:
    """Ten items, so many of them right."""
    values = [float(item < 10 * right) for item in range(10)]
    return pd.DataFrame({"task": "mmlu_philosophy", "item": range(10), "metric": "acc",
                         "value": values})  # fmt: skip


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_a_reproduction_on_the_organism(
    spillover: Spillover, world: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = iter([1.0, 0.8, 0.9])  # of the base and of the two arms
    monkeypatch.setattr("unlearning.utility.tasks.require_harness", lambda: None)
    monkeypatch.setattr(
        "analyses.evaluate.utility.run_tasks", lambda *_, **__: answers(next(right))
    )
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "run"
    few = world[world["domain"].isin((*SOME, "general"))]
    few.to_json(prompts, orient="records", lines=True)
    asked = ["reproduce", "mushtaq2025", shipped(), "--out", out, "--prompts", prompts]
    asked += ["--concept", "cybersecurity", "--epochs", 1, "--tasks", "mmlu_philosophy"]
    code, _, said = spillover(*asked, "--dry-run")
    assert code == 0 and "memory" in said and "2 steps" in said
    code, _, said = spillover(*asked)
    assert code == 2 and "--yes" in said and not out.exists()

    code, shown, said = spillover(*asked, "--yes")
    assert code == 0, said
    assert "none of the paper's models" in shown
    found = read_json(out / "reproduction.json")
    assert not found["published_is_of_this_model"]
    rows = {(r["published_model"], r["concept"], r["objective"]): r["columns"]
            for r in found["rows"] if not r["retained"]}  # fmt: skip
    for model in (MISTRAL, QWEN):
        cell = rows[model, "cybersecurity", "npo"]["safety"]
        assert cell["published"] == 100 * shares(model, "cybersecurity", "npo")[SAFETY]
        assert cell["measured"]["low"] <= cell["measured"]["value"] <= cell["measured"]["high"]
        apart = cell["measured"]["value"] - cell["published"]
        assert cell["difference"]["value"] == pytest.approx(apart)
        assert cell["difference"]["low"] <= apart <= cell["difference"]["high"]
        points = [rows[model, concept, objective]["mmlu"]["measured"]["value"]
                  for concept, objective in ((None, None), ("cybersecurity", "npo"))]  # fmt: skip
        assert points == pytest.approx([100, 80])
        # What was not made says so, and is no number.
        unmade = rows[model, "safety", "npo"]["safety"]["measured"]
        assert unmade["value"] is None and unmade["reason"]
    layers = {row["layer"] for row in found["entanglement"]["layers"]}
    assert layers == set(range(len(layers)))
    page = (out / "reproduction.html").read_text(encoding="utf-8")
    assert "none of the paper" in page and world["prompt"].iloc[0] not in page
    assert "past the paper's rule" in page.replace("&#39;", "'")  # 20 points of MMLU lost
    assert pd.read_csv(out / "reproduction.csv")["column"].nunique() == 5

    code, _, said = spillover(*asked, "--yes")  # the same command goes on
    assert code == 0 and said.count("already done") == 2 and "training" not in said


def test_an_interval_of_one_domain_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    tables = []
    for _ in range(2):
        rows = [(f"{d}-{i}", d, "harmful", "test", float(rng.integers(2)), 0)
                for d in DOMAINS for i in range(12)]  # fmt: skip
        columns = ["prompt_id", "domain", "label", "split", "refused", "step"]
        tables.append(Arm("arm", {}, pd.DataFrame(rows, columns=columns), None))
    found = []
    for domains in (DOMAINS[:1], DOMAINS):
        base, after = (rates_of(arm, domains) for arm in tables)
        found.append(derived_from(derived.cross_drop, base, after, domain=0))
    assert found[0] == found[1] and found[0].n == 12
    every = derived_from(derived.leak_ratio, base, after, target=0)
    assert every.n == 12 * len(DOMAINS)
