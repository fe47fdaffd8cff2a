"""The benchmarks compare like with like, and run; how fast anything is, is not tested here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import TrainerCallback

from tests.benchmarks import gpu_step, npo_step
from tests.benchmarks.__main__ import step_memory, table
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


def test_the_gpu_benchmark_runs_without_a_gpu() -> None:
    workload = gpu_step.GpuWorkload(rows=2, micro_rows=1, tokens=8, response=3, rank=2)
    found = gpu_step.measure("tiny", workload, steps=2, peak_teraflops=1.0)
    assert found["tokens_per_second"]["n"] == 2
    assert 0 < found["utilisation"] < 1


def test_model_flops_are_counted_from_the_weights() -> None:
    """Twice the tokens: twice the matrix work, four times the attention."""
    config = gpu_step.SHAPES["tiny"]
    one, two = (
        gpu_step.GpuWorkload(tokens=tokens, response=0, rank=2, rows=1, micro_rows=1)
        for tokens in (8, 16)
    )
    model = gpu_step._model("tiny", one).model
    width = config["hidden_size"]
    key_value = width // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = 2 * width * (width + key_value) + 3 * width * config["intermediate_size"]
    matrices = 4 * config["num_hidden_layers"] * layer
    attention = 6 * config["num_hidden_layers"] * width
    assert gpu_step.flops(model, one) == 8 * matrices + 64 * attention
    assert gpu_step.flops(model, two) == 16 * matrices + 256 * attention


def test_model_flops_do_not_depend_on_how_weights_are_stored() -> None:
    pytest.importorskip("bitsandbytes")
    workload = gpu_step.GpuWorkload(tokens=8, response=3, rank=2, rows=1, micro_rows=1)
    plain = gpu_step._model("tiny", workload).model
    packed = gpu_step._model("tiny", replace(workload, four_bit=True)).model
    assert gpu_step.flops(packed, workload) == gpu_step.flops(plain, workload)
