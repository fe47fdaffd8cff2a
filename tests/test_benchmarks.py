"""The benchmarks compare like with like, and run; how fast anything is, is not tested here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from interp.model import LanguageModel
from tests.benchmarks import npo_step
from tests.benchmarks.__main__ import step_memory, table
from tests.benchmarks.gpu import __main__ as gpu
from tests.benchmarks.gpu import reading, step
from tests.benchmarks.gpu.models import SHAPES, random_model
from tests.benchmarks.gpu.step import SMALL, GpuWorkload, training_step
from tests.benchmarks.paired import median, ratio
from tests.benchmarks.usual_step import Floor, ResidentReference, flattened, transposed
from tests.benchmarks.workload import Workload
from unlearning.training import unlearn_in_place, with_references

TINY = Workload(
    vocabulary=300, d_model=32, d_mlp=64, layers=2, heads=4, rows=2, tokens=12, response=5
)


def test_a_ratio_is_of_pairs_and_its_interval_holds_the_median() -> None:
    rng = np.random.default_rng(0)
    slowness = rng.lognormal(sigma=2, size=40)
    exact = ratio(0.4 * slowness, slowness, goal=0.5)
    assert exact["value"] == pytest.approx(0.4)
    assert exact["low"] == pytest.approx(exact["high"])
    assert exact["met"] and exact["n"] == 40
    noisy = median(rng.lognormal(size=40), goal=1e-9)
    assert noisy["low"] < noisy["value"] < noisy["high"]
    assert noisy["met"] is False
    assert median([1.0])["met"] is None


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_every_way_takes_the_same_step(trained: str, tmp_path: Path) -> None:
    """The loss of three steps, and the weights after them, are the engine's."""
    usual = {
        name: ResidentReference(TINY, trained, cross_entropy)
        for name, cross_entropy in {"transposed": transposed, "flattened": flattened}.items()
    }
    losses = {name: [step() for _ in range(3)] for name, step in usual.items()}
    lm = TINY.prepared(trained)
    mixture = with_references(lm, TINY.mixture(), {"reference"})
    log = unlearn_in_place(lm, mixture, TINY.settings(trained, steps=3), folder=tmp_path)
    for name, found in losses.items():
        assert log["loss"].to_list() == pytest.approx(found, rel=1e-5)
        own = dict(usual[name].model.named_parameters())
        for key, value in lm.model.named_parameters():
            # AdamW's first steps are signs: where a gradient is 0 but for rounding they differ.
            assert (value - own[key]).abs().max() <= 1e-5
            assert (value - own[key]).abs().mean() <= 1e-7


@pytest.mark.parametrize("trained", ["lora", "full"])
def test_the_floor_reaches_every_trained_parameter(trained: str) -> None:
    floor = Floor(TINY, trained)
    reached = []
    for parameter in floor.trained:
        parameter.register_hook(lambda _: reached.append(1))
    floor()
    # Adapters' B is 0 at the start, which leaves their A a gradient that is 0, but there.
    assert len(reached) == len(floor.trained)


def test_steps_are_interleaved_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    callback = npo_step.Interleaved({n: lambda n=n: order.append(n) for n in ("a", "b")})
    for _ in range(4):
        callback.on_step_end()
    assert isinstance(callback, TrainerCallback)
    assert all({*order[i : i + 2]} == {"a", "b"} for i in range(0, 8, 2))
    assert {name: len(found) for name, found in callback.seconds.items()} == {
        "ours": 3,
        "a": 3,
        "b": 3,
    }
    found = npo_step.times(TINY, "lora", ["resident_reference", "floor"], pairs=2)
    assert {name: len(values) for name, values in found.items()} == {
        "ours": 2,
        "resident_reference": 2,
        "floor": 2,
        "reference_pass": 1,
    }


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
def test_memory_is_measured_in_fresh_processes() -> None:
    entries = step_memory(TINY, "lora", processes=1)
    assert entries["npo_step.peak_memory_vs_resident_reference"]["value"] > 0
    assert table(entries).row_count == len(entries)


def test_a_training_step_is_measured_and_runs_without_a_gpu() -> None:
    found = training_step("tiny", SMALL, peak_teraflops=1.0)
    assert found["tokens_per_second"]["n"] == 2
    assert 0 < found["utilisation"] < 1
    assert found["planned_gigabytes"] > 0 and found["peak_over_planned"] is None


def _attends_to_padding(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}


def _counts_padding_twice(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    padded = int((inputs["attention_mask"] == 0).any())
    return {**inputs, "position_ids": inputs["position_ids"] * (1 + padded)}


@pytest.mark.parametrize("fault", [dict, _attends_to_padding, _counts_padding_twice])
def test_padding_is_met_only_with_the_right_mask_and_positions(
    fault: Callable[[dict[str, Tensor]], dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sharp(name: str) -> LanguageModel:
        """Narrow random models attend to all tokens alike; at 7B, positions matter."""
        lm = random_model(name)
        for layer in lm.layers:
            for part in ("q_proj", "k_proj"):
                layer.get_parameter(f"self_attn.{part}.weight").data *= 8
        return lm

    right = LanguageModel.inputs
    monkeypatch.setattr(reading, "random_model", sharp)
    monkeypatch.setattr(LanguageModel, "inputs", lambda lm, batch: fault(right(lm, batch)))
    found = reading.padded_against_single("tiny", reading.SMALL)
    assert found["met"]["padded"] is (fault is dict)


def test_a_step_takes_the_fastest_way_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """With less free memory: fewer rows in a forward, then activations are computed again."""
    workload = GpuWorkload(rows=8, tokens=64, response=8, rank=4)
    whole = step.fitting("tiny", workload)[1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = []
    for share in (2.0, 1.05, 1.0, 0.97, 0.0):
        free = share * whole / 0.9
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free, free))
        settings, planned = step.fitting("tiny", workload)
        assert planned <= 0.9 * free or not share
        chosen.append((settings.activation_checkpointing, settings.micro_batch_size))
    assert chosen[0] == (False, 8) and chosen[-1] == (True, 1)
    assert chosen == sorted(chosen, key=lambda one: (one[0], -(one[1] or 0)))


def test_model_flops_are_counted_from_the_weights() -> None:
    """Twice the tokens: twice the matrix work, four times the attention."""
    config = SHAPES["tiny"]
    one, two = (GpuWorkload(tokens=tokens, response=0, rank=2, rows=1) for tokens in (8, 16))
    model = random_model("tiny").model
    width = config["hidden_size"]
    key_value = width // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = 2 * width * (width + key_value) + 3 * width * config["intermediate_size"]
    matrices = 4 * config["num_hidden_layers"] * layer
    attention = 6 * config["num_hidden_layers"] * width
    assert step.flops(model, one) == 8 * matrices + 64 * attention
    assert step.flops(model, two) == 16 * matrices + 256 * attention


def test_model_flops_do_not_depend_on_how_weights_are_stored() -> None:
    pytest.importorskip("bitsandbytes")
    packed = step._model("tiny", replace(SMALL, four_bit=True)).model
    assert step.flops(packed, SMALL) == step.flops(random_model("tiny").model, SMALL)


def test_a_part_that_fails_or_hangs_gives_a_line_and_the_rest_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = {
        "good": 'print(\'noise\'); print(\'{"met": {"a": true, "b": false, "c": null}}\')',
        "bad": "raise ValueError('the reason')",
        "silent": "raise SystemExit(3)",
        "slow": "import subprocess; subprocess.run(['sleep', '60'])",
        "after": "print('{}')",
    }
    said: list[dict[str, Any]] = []
    monkeypatch.setattr(gpu, "PARTS", {name: gpu.Part(None, 0.7) for name in code})  # type: ignore[arg-type]
    run = gpu.report

    def small(command: Sequence[str], seconds: float) -> dict[str, Any]:
        seconds = seconds if command[4] == "slow" else 60.0
        return run([sys.executable, "-S", "-c", code[command[4]]], seconds)

    monkeypatch.setattr(gpu, "report", small)
    assert gpu.run_parts(list(code), [], said.append) == 1
    good, bad, silent, slow, after, total = said
    assert "failed" not in good and "failed" not in after
    assert bad["failed"] == "ValueError: the reason" and "3" in silent["failed"]
    assert "took longer than 1 s" in slow["failed"]
    assert total["failed"] == ["bad", "silent", "slow"] and total["missed"] == ["good.b"]
    json.dumps(said)
    monkeypatch.setattr(gpu, "MOST", 0.0)
    assert gpu.run_parts(["good"], [], said.append) == 1
    assert said[-2]["failed"] == "no time is left"


def test_the_parts_take_at_most_eight_minutes() -> None:
    assert sum(part.seconds for part in gpu.PARTS.values() if part.by_default) <= gpu.MOST == 480


def test_without_a_gpu_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1 and "GPU" in shown.err
