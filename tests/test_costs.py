"""What a plan announces: memory against measured steps, work, devices, words, and the outcome."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from transformers import AutoConfig, Qwen2Config

from analyses.costs import (
    CostedModel,
    Device,
    Reading,
    StepRows,
    Weights,
    Work,
    device_of,
    most_resident,
    step_memory,
    watched,
)
from analyses.costs.checkpoints import weights_of
from analyses.costs.command import plans
from analyses.costs.comparison import comparison_text
from analyses.costs.cut import Trained, config_of, cut_config
from analyses.costs.estimate import CostEstimate
from analyses.costs.footprint import Footprint, footprint_of
from analyses.costs.memory import Memory
from analyses.costs.rates import Rates, Shapes, _Cut, measured_rates
from analyses.runs import RunFolder
from analyses.study.fitting import fitted, study_memory, with_forecast
from analyses.study.plan import demo_plan
from analyses.study.resolve import prompts_of
from analyses.study.work import forecast_rows, forecast_work, gate_work, why_no_gate, work_of
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import read_json, write_json
from tests.benchmarks.gpu.models import config_of_shape
from tests.benchmarks.plans import Trial, outcome
from tests.benchmarks.step_memory import planned, save_headers
from unlearning.organism import load_world, shipped
from unlearning.training import TrainingSettings, prepare_in_place

CHECKPOINTED = {"activation_checkpointing": True}
# Peak GiB of one step at Qwen2.5-7B, LoRA of rank 128 in bfloat16, NPO and cross-entropy, rows of
# 256 tokens with a response of 128: measured with a simulated device, without the base model.
MEASURED: list[tuple[dict[str, Any], int, int, float]] = [
    ({}, 8, 256, 54.0),
    (CHECKPOINTED, 8, 256, 20.7),
    ({"autocast": True}, 8, 256, 46.9),
    ({"separate_backward": True}, 8, 256, 37.3),
    ({"retain_objective": "kl"}, 8, 256, 56.5),
    ({}, 32, 256, 161.0),
    (CHECKPOINTED, 32, 256, 27.6),
    (CHECKPOINTED | {"separate_backward": True, "autocast": True}, 8, 512, 21.3),
    (CHECKPOINTED | {"trained": "all", "autocast": True}, 8, 256, 113.5),
]


@pytest.fixture(scope="module")
def qwen() -> tuple[Any, Weights]:
    return config_of_shape("qwen2.5-7b"), Weights(7_615_616_512, 2 * 7_615_616_512)


@pytest.mark.parametrize(("options", "rows", "tokens", "gibibytes"), MEASURED)
def test_the_memory_of_a_step_at_7b_is_as_measured(
    qwen: tuple[Any, Weights], options: dict[str, Any], rows: int, tokens: int, gibibytes: float
) -> None:
    config, weights = qwen
    settings = TrainingSettings(**options)
    footprint = footprint_of(config, settings, torch.bfloat16)
    assert not footprint.is_rough and footprint.parameters == weights.parameters
    found = step_memory(weights, footprint, settings, StepRows(rows, rows, tokens, 128)) / 2**30
    assert gibibytes / 1.5 < found < 1.5 * gibibytes


# A study's step on a card of so many GiB, with or without a 4-bit base: forget rows in a forward,
# gradient checkpointing, and the peak GiB of such a step, measured with the simulated device.
CARDS = [(80, False, 8, False, 68.1), (40, False, 4, True, 34.4), (24, True, 8, True, 17.2)]


@pytest.mark.parametrize(("card", "four_bit", "rows", "checkpointing", "gibibytes"), CARDS)
def test_a_7b_step_is_made_to_fit_the_card(
    qwen: tuple[Any, Weights],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    card: int,
    four_bit: bool,
    rows: int,
    checkpointing: bool,
    gibibytes: float,
) -> None:
    """Weights from headers alone: the files hold no number."""
    device = Device("cuda:0", "a card", card * 2**30, card * 2**30)
    monkeypatch.setattr("analyses.study.fitting.device_of", lambda _options: device)
    save_headers(tmp_path, qwen[0], four_bit=four_bit)
    plan, _, memory = planned(tmp_path)
    settings = plan.arms[-1].settings
    assert (settings.micro_batch_size, settings.activation_checkpointing) == (rows, checkpointing)
    assert gibibytes < card and gibibytes / 1.5 < memory.device / 2**30 < 1.5 * gibibytes


@pytest.mark.parametrize("trained", ["lora", "projections", "all"])
def test_parameters_are_counted_without_the_model(trained: str) -> None:
    settings = TrainingSettings(trained=trained, lora_rank=4, lora_alpha=4)
    config = config_of(str(shipped()))
    found = footprint_of(config, settings, torch.float32)
    lm = LanguageModel.load(shipped())
    assert found.parameters == sum(one.numel() for one in lm.model.parameters())
    lm = prepare_in_place(lm, settings)
    trained_here = sum(one.numel() for one in lm.model.parameters() if one.requires_grad)
    assert found.trained == trained_here


def test_weights_are_read_from_headers(tmp_path: Path) -> None:
    found = weights_of(str(shipped()))
    assert found == Weights(1_151_232, 4 * 1_151_232, "float32")
    adapter = tmp_path / "adapter"
    write_json(adapter / "adapter_config.json", {"base_model_name_or_path": str(shipped())})
    assert weights_of(str(adapter)) == found
    assert CostedModel(str(adapter)).footprint() == CostedModel(str(shipped())).footprint()


def test_weights_are_those_that_transformers_reads(tmp_path: Path) -> None:
    """Not another copy next to them; and none where the file is cut off or a pointer to it."""
    found, file = weights_of(str(shipped())), tmp_path / "model.safetensors"
    whole = (shipped() / file.name).read_bytes()
    (tmp_path / "consolidated.safetensors").write_bytes(whole)
    file.write_bytes(whole)
    assert weights_of(str(tmp_path)) == found
    for broken in (b"", whole[:100], b"version https://git-lfs.github.com/spec/v1\noid sha256:00"):
        file.write_bytes(broken)
        assert weights_of(str(tmp_path)) is None


def test_a_cut_configuration_has_entries_for_its_layers_only() -> None:
    config = AutoConfig.for_model("qwen2", num_hidden_layers=6, use_sliding_window=True)
    cut = cut_config(config, 2, vocabulary=50)
    assert (cut.num_hidden_layers, len(cut.layer_types), cut.vocab_size) == (2, 2, 50)
    assert config.num_hidden_layers == 6


def test_an_architecture_that_does_not_run_is_counted_roughly() -> None:
    config = AutoConfig.for_model("qwen2", hidden_size=30, num_attention_heads=4)  # no whole head
    found = footprint_of(config, TrainingSettings(), torch.float32)
    assert found.is_rough and found.layer > 0
    rates = measured_rates(config, found, torch.float32, "cpu", Shapes(2, 4, 4), None)
    assert rates.is_rough and rates.read > 0


def test_expected_work_is_at_most_the_most() -> None:
    plan = demo_plan(1)
    work = work_of(plan, prompts_of(plan), Reading(12, 8, 16))
    for one in fields(Work):
        assert 0 < getattr(work.expected, one.name) <= getattr(work.at_most, one.name)
    short = replace(
        plan,
        arms=tuple(
            replace(arm, training=arm.training and replace(arm.training, max_steps=2))
            for arm in plan.arms
        ),
    )
    few = work_of(short, prompts_of(plan), Reading(12, 8, 16))
    assert few.at_most.steps == 2 * len(plan.arms) < work.expected.steps


def test_a_gate_that_costs_over_a_tenth_is_left_out_by_name() -> None:
    prompts, reading = prompts_of(demo_plan(1)), Reading(40, 20, 48)
    trained = replace(demo_plan(1), model="some/model")
    alone = replace(trained, arms=())
    assert "of the work of this run" in why_no_gate(alone, prompts, reading)
    assert not why_no_gate(replace(alone, gate=True), prompts, reading)
    assert not why_no_gate(replace(alone, model=demo_plan(1).model), prompts, reading)
    assert not why_no_gate(trained, prompts, reading)
    assert why_no_gate(replace(trained, gate=False), prompts, reading)
    gate, without = gate_work(prompts, reading), work_of(alone, prompts, reading)
    found = work_of(replace(alone, gate=True), prompts, reading)
    assert found.expected.read == without.expected.read + gate.expected.read
    assert 0 < gate.expected.read < gate.at_most.read


def test_reading_holds_the_widest_part_of_a_layer() -> None:
    def read(width: int, layers: int = 2) -> float:
        config = Qwen2Config(
            vocab_size=50, hidden_size=32, intermediate_size=width, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=2,
        )  # fmt: skip
        return footprint_of(config, None, torch.float32).reading

    # The gate, its activation or product, and the other half: three of the part's width.
    assert read(4096) - read(2048) == pytest.approx(3 * 2048 * 4, rel=0.01)
    assert read(2048, layers=3) == pytest.approx(read(2048), rel=0.01)


def test_equal_settings_share_a_measurement() -> None:
    config = AutoConfig.for_model("qwen2", num_hidden_layers=2)
    given = TrainingSettings(batch_size=8)
    asked = Trained(config, given)
    assert asked == Trained(config, replace(given, batch_size=4, max_steps=1))
    assert asked != Trained(config, replace(given, lora_rank=4)) != Trained(config, None)
    assert asked != Trained(AutoConfig.for_model("qwen2", num_hidden_layers=3), given)
    assert hash(asked) == hash(Trained(AutoConfig.for_model("qwen2", num_hidden_layers=2), given))


@pytest.mark.parametrize(("fixed", "row"), [(0.01, 0.02), (0.2, 1e-4), (0.0, 3.0)])
def test_the_time_of_many_rows_follows_from_few_along_a_line(
    monkeypatch: pytest.MonkeyPatch, fixed: float, row: float
) -> None:
    spent: list[float] = []

    def once(_self: object, run: Any) -> float:
        spent.append(run())
        return spent[-1]

    monkeypatch.setattr(_Cut, "_once", once)
    monkeypatch.setattr("analyses.costs.rates.LONG_ENOUGH", 0.05)  # as outside of these tests
    most = 512
    found = object.__new__(_Cut)._time(lambda rows: lambda: fixed + row * rows, most)
    assert found == pytest.approx((fixed + row * most) / most)
    assert sum(spent) < 3.5


def test_the_time_of_many_rows_counts_memory_given_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a size on, the system clears the pages of every tensor; a small batch is below it."""
    monkeypatch.setattr(_Cut, "_once", lambda _self, run: run())
    monkeypatch.setattr("analyses.costs.rates.LONG_ENOUGH", 0.05)
    most = 512

    def took(rows: int) -> float:
        return 0.01 * rows * (2 if rows >= 40 else 1)

    found = object.__new__(_Cut)._time(lambda rows: lambda: took(rows), most)
    assert found * most == pytest.approx(took(most), rel=0.1)


def test_the_bound_counts_what_may_come_on_top() -> None:
    """Sampled answers where refusals are few, and answers where log-odds are not valid."""
    plan = demo_plan(1)
    prompts, reading = prompts_of(plan), Reading(12, 8, 16)
    alone = replace(plan, sampling=replace(plan.sampling, samples=0))
    found, without = (work_of(one, prompts, reading) for one in (plan, alone))
    domains = {domain for arm in plan.arms for domain in (*arm.retain, arm.concept)}
    asked = (prompts["label"] == "harmful") & (prompts["split"] == "train")
    asked &= prompts["domain"].isin(domains)
    assert found.expected == without.expected
    more = found.at_most.generated - without.at_most.generated
    assert more == plan.sampling.samples * asked.sum() * 16


def test_a_forecast_differentiates_harmful_prompts_and_one_domain_s_refusals() -> None:
    """Benign training prompts are read; prompts of other splits play no part."""
    rows = [
        (domain, label, split)
        for domain in ("safety", "bias")
        for label, count in (("harmful", 12), ("benign", 5))
        for split in ("train", "test")
        for _ in range(count)
    ]
    prompts = pd.DataFrame(rows, columns=["domain", "label", "split"])
    found = forecast_work(prompts, Reading(20, 8, 10, usual=0.7))
    trained = 24 * 20 + 12 * (20 + 7)
    assert found.expected == Work(rows=10, read=10 * 20, trained=trained, arms=1)
    for field in fields(Work):
        assert getattr(found.expected, field.name) <= getattr(found.at_most, field.name)
    assert forecast_rows(StepRows(32, 0, 30, 10), prompts).rows == 3
    settings = TrainingSettings(trained="projections")
    asked = Memory(0.0, 100.0), settings, prompts, Reading(20, 8, 10, usual=0.7)
    held = with_forecast(*asked, Footprint(2, 9, 5, 3.0, 0, 0, 0), streamed=False)
    assert held.main == 100 + 4 * 14 * 5
    # Without stored gradients: one layer's traces of all harmful rows, of both sides.
    held = with_forecast(*asked, Footprint(2, 9, 5, 3.0, 0, 0, 0), streamed=True)
    assert held.main == pytest.approx(100 + 24 * (20 + 20 + 7) * 3)


def test_threads_without_a_core_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processor's time of threads that wait for each other says nothing about the work."""
    threads = torch.get_num_threads()
    config, timed = config_of(str(shipped())), []
    found = footprint_of(config, None, torch.float32)
    monkeypatch.setattr(_Cut, "_reading", lambda _: timed.append(torch.get_num_threads()) or 1.0)
    monkeypatch.setattr(_Cut, "_generating", lambda _: 1.0)
    monkeypatch.setattr("psutil.Process", lambda: SimpleNamespace(cpu_affinity=lambda: [0, 1, 3]))
    try:
        torch.set_num_threads(3)
        for length, (used, free) in enumerate(
            [([4.0, 3.0, 99.0, 2.0], 3), ([4.0, 97.0, 0.0, 2.0], 2), ([99.0, 97.0, 0.0, 95.0], 1)]
        ):
            monkeypatch.setattr("psutil.cpu_percent", lambda used=used, **_: used)
            rates = measured_rates(
                config, found, torch.float32, "cpu", Shapes(2, 4, 4 + length), None
            )
            assert timed[-1] == free and rates.is_crowded == (free < 3)
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    estimate = CostEstimate(
        Device("cpu", "CPU"), Memory(0.0, 2**29), (10.0, 100.0), is_crowded=True
    )
    assert (
        "time: about 10 s, at most 100 s, as measured now, while other programs run"
        in "\n".join(estimate.lines())
    )


def test_rates_turn_work_into_time() -> None:
    rates = Rates(1.0, 10.0, 100.0, 1000.0)
    assert rates.seconds(Work(read=3)) - rates.seconds(Work()) == pytest.approx(3)
    assert rates.seconds(Work(generated=2)) - rates.seconds(Work()) == pytest.approx(20)
    heavy = replace(rates, layers=30, load=5.0)
    assert heavy.seconds(Work(arms=2)) - rates.seconds(Work(arms=2)) == pytest.approx(10)
    assert heavy.seconds(Work(maps=1)) > rates.seconds(Work(maps=1)) > rates.seconds(Work())


def test_the_plan_is_of_the_device_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda *_: pytest.fail("asked for a GPU")
    )
    found = device_of({"device": "cpu"})
    assert found.is_cpu and found.free and found.total and found.free <= found.total


def test_the_words_say_what_does_not_fit() -> None:
    device = replace(device_of({"device": "cpu"}), free=2**30)
    small = CostEstimate(device, Memory(0.0, 2**29), (10.0, 100.0))
    assert small.lines()[:2] == [
        "memory: about 0.5 GiB of main memory",
        "time: about 10 s, at most 100 s, as measured now",
    ]
    assert small.fits and not replace(small, memory=Memory(0.0, 2**31)).fits
    assert "this does not fit" in replace(small, memory=Memory(0.0, 2**31)).lines()[-1]
    assert "not measured" in replace(small, seconds=None).lines()[1]
    packed = replace(small, weights=Weights(10**8, 4 * 10**8, "float32", unpacked=True))
    assert packed.lines()[0] == (
        "weights: 100 M parameters, 0.37 GiB as float32, dequantised when they are loaded"
    )


def test_plan_and_outcome_are_in_the_manifest(tmp_path: Path) -> None:
    """Sessions add up, interrupted ones too, and the first plan stays."""
    expected = {"seconds": 5.0}
    with pytest.raises(KeyboardInterrupt), watched(tmp_path, {"seconds": 5.0}):
        time.sleep(0.05)
        raise KeyboardInterrupt
    assert not (tmp_path / "manifest.json").exists()
    for session in range(2):
        with watched(tmp_path, {"seconds": 5.0 + session}):
            write_json(tmp_path / "manifest.json", {"versions": {}})
    found = read_json(tmp_path / "manifest.json")
    assert found["versions"] == {} and found["plan"]["expected"]["seconds"] == 5.0
    actual = found["plan"]["actual"]
    assert actual["seconds"] >= 0.05 and list(tmp_path.iterdir()) == [tmp_path / "manifest.json"]
    assert actual["main_bytes"] > 2**20 and actual["device_bytes"] == 0
    assert actual["processor_seconds"] > 0
    with pytest.raises(ZeroDivisionError), watched(tmp_path, expected):
        raise ZeroDivisionError
    assert read_json(tmp_path / "manifest.json") == found
    with watched(tmp_path, {"seconds": 9.0}, anew=True):
        pass
    assert read_json(tmp_path / "manifest.json")["plan"]["expected"] == {"seconds": 9.0}


def test_plans_are_compared_with_outcomes(tmp_path: Path) -> None:
    expected = {"seconds": 30.0, "seconds_at_most": 40.0, "device_bytes": 0, "main_bytes": 2**30}
    actual = {"seconds": 60.0, "device_bytes": 0, "main_bytes": 2**31}
    write_json(tmp_path / "manifest.json", {"plan": {"expected": expected, "actual": actual}})
    table = plans([tmp_path])
    assert list(table["quantity"]) == ["seconds", "main_bytes"]
    assert list(table["ratio"]) == [0.5, 0.5]
    text = comparison_text(table)
    assert "expected 30 s, took 60 s, ratio 0.50; more than the 40 s at most" in text
    assert "expected 1.0 GiB, took 2.0 GiB" in text
    write_json(tmp_path / "manifest.json", {"versions": {}})
    with pytest.raises(InputError, match="no plan with its outcome"):
        plans([tmp_path])


def test_a_step_is_made_to_fit_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """First fewer rows in a forward, then gradient checkpointing; the batch and the rest stay."""
    plan = demo_plan(1)
    prompts, run = prompts_of(plan), RunFolder(tmp_path / "run")
    assert fitted(plan, prompts, run) == (plan, [])
    whole = study_memory(plan, prompts)
    assert whole is not None
    monkeypatch.setattr("analyses.study.fitting.peak", lambda _where, held, _: Memory(held, 0))
    chosen = []
    for free in (10**9, 110 * 10**6, 66 * 10**6, 10**6):
        small = replace(device_of({"device": "cpu"}), free=free)
        monkeypatch.setattr("analyses.study.fitting.device_of", lambda _options, d=small: d)
        found, lines = fitted(plan, prompts, run)
        settings = found.arms[0].settings
        chosen.append((settings.micro_batch_size or 32, settings.activation_checkpointing))
        assert settings.batch_size == 32 and (found == plan) == (free in (10**9, 10**6))
        assert bool(lines) == (free < 10**9)
    assert chosen[0] == (32, False) and chosen[1][0] < 32 and not chosen[1][1]
    assert chosen[2][0] < 32 and chosen[2][1]
    assert "not even one forget example" in lines[0]


def test_a_run_keeps_the_rows_that_it_began_with(tmp_path: Path) -> None:
    plan, run = demo_plan(1), RunFolder(tmp_path / "run")
    arm = plan.arms[0]
    begun = replace(arm, training=replace(arm.settings, micro_batch_size=8))
    write_json(run.arm(arm.name) / "config.json", begun.describe(0.9))
    found, lines = fitted(plan, prompts_of(plan), run)
    assert {one.settings.micro_batch_size for one in found.arms} == {8}
    assert lines[0].startswith("batch: 8 of 32 forget examples in one forward, so that")
    asked = [replace(one, training=replace(one.settings, activation_checkpointing=True))
             for one in plan.arms]  # fmt: skip
    found, _ = fitted(replace(plan, arms=tuple(asked)), prompts_of(plan), run)
    assert all(one.settings.activation_checkpointing for one in found.arms)  # as asked now


def test_the_peak_of_a_process_is_not_its_parent_s() -> None:
    held = bytearray(400 * 2**20)
    code = "from analyses.costs.devices import most_resident as m; print(m())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(told.stdout) < len(held) < most_resident()


@pytest.mark.slow
def test_the_planned_memory_of_a_command_is_what_it_takes(tmp_path: Path) -> None:
    """In a separate process, because other tests' memory would count."""
    prompts = load_world(shipped()).prompts(train=4, validation=2, test=2)
    prompts.to_json(tmp_path / "prompts.jsonl", orient="records", lines=True)
    trial = Trial("organism", tmp_path, tmp_path / "prompts.jsonl")
    row = outcome(trial, "evaluate")
    assert 1 / 1.5 < row["expected_main_bytes"] / row["main_bytes"] < 1.5
