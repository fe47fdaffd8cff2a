"""On one device: the CPU's numbers, nothing kept between arms, one line when memory is full."""

from __future__ import annotations

import gc
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from analyses.study import engine, organism_plan, run_study
from interp.activations import SITES, collect
from interp.errors import MachineError
from interp.model import LanguageModel, batching
from tests.benchmarks.gpu.__main__ import PARTS
from tests.conftest import Spillover, leave_out_report
from tests.device import readers
from tests.device.conftest import (
    BLOCK,
    SMALL_BLOCK,
    STEPS,
    Limited,
    Train,
    ready,
    simulated_cuda,
    weights,
)
from tests.device.readers import READERS, compare
from tests.test_study import Said, shortened
from unlearning.organism import load_world, shipped
from unlearning.training import prepare_in_place, unlearn_in_place

KINDS: dict[str, dict[str, Any]] = {
    "npo": {},
    "lora": {"trained": "lora", "retain_objective": "kl", "activation_checkpointing": True},
    "rmu": {"objective": "rmu", "retain_objective": "feature_l2", "separate_backward": True},
    "adaptive": {"adaptive": True, "slack": 0.0, "multiplier_rate": 0.5},
}
KIB, MIB = 2**10, 2**20
LONG = tuple(
    f"Which of these tools does a carpenter need: {'saw, ' * (80 + i)}?" for i in range(64)
)
MOST_WAITS = {"npo": 16, "lora": 34, "separate": 32}  # of a step; KL picks rows by a mask


@contextmanager
def no_collection() -> Iterator[None]:
    """What is freed here is freed at once, and not when Python looks for cycles."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def held() -> int:
    return int(torch.cuda.memory_allocated())


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_the_cpu_s_weights(kind: str, checkpoint: Path, trained: Train) -> None:
    def moved(device: str) -> torch.Tensor:
        return weights(trained(LanguageModel.load(checkpoint, device=device), **KINDS[kind]))

    found, wanted = moved("cuda"), moved("cpu")
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4


def test_arms_in_a_row_leave_nothing_on_the_device(checkpoint: Path, trained: Train) -> None:
    base = LanguageModel.load(checkpoint, device="cuda")
    before = held()
    with no_collection():
        for kind in KINDS:
            lm = trained(LanguageModel.load(checkpoint, device="cuda"), **KINDS[kind])
            del lm
            assert held() == before, f"{held() - before} bytes are kept after {kind}"
    assert base.device.type == "cuda"


def test_adapters_compute_like_a_bfloat16_base_and_keep_float32_weights(
    checkpoint: Path, trained: Train
) -> None:
    lm = LanguageModel.load(checkpoint, device="cuda", dtype=torch.bfloat16)
    lm = trained(lm, trained="lora", learning_rate=1e-6)
    products = {}

    def note(module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> None:
        products[module] = output.dtype

    adapters = [m for n, m in lm.model.named_modules() if n.endswith(".lora_B.default")]
    hooks = [module.register_forward_hook(note) for module in adapters]
    lm.logits(lm.chat.pad([lm.chat.encode("Why?")], lm.device), keep=1)
    for hook in hooks:
        hook.remove()
    assert adapters and {products[module] for module in adapters} == {torch.bfloat16}
    for module in adapters:
        weight = module.get_parameter("weight")
        assert weight.dtype == torch.float32
        # Three such steps from 0: bfloat16 would hold them too, but not their sum with a weight.
        assert 0 < float(weight.abs().max()) < 1e-5


# Memory that is full


def test_a_step_that_does_not_fit_says_what_makes_it_smaller(
    checkpoint: Path, limited: Limited, tmp_path: Path
) -> None:
    lm, mixture, settings = ready(LanguageModel.load(checkpoint, device="cuda"), max_steps=1)
    torch.cuda.reset_peak_memory_stats()
    before = held()
    unlearn_in_place(lm, mixture, settings, folder=tmp_path)
    need = torch.cuda.max_memory_allocated() - before
    lm, mixture, settings = ready(LanguageModel.load(checkpoint, device="cuda"))
    wanted = "--micro-batch-size 1 .*--gradient-checkpointing"
    with limited(int(need * 0.8)), pytest.raises(MachineError, match=wanted):
        unlearn_in_place(lm, mixture, settings, folder=tmp_path)


@pytest.mark.parametrize("trained", ["lora", "projections", "all"])
def test_a_model_that_cannot_be_prepared_says_what_makes_it_smaller(
    trained: str, checkpoint: Path, limited: Limited
) -> None:
    lm = LanguageModel.load(checkpoint, device="cuda")
    smaller = "--lora-rank 2" if trained == "lora" else "--trainable lora"
    wanted = f"parameters to train does not fit.*{smaller}.*--device"
    with limited(KIB), pytest.raises(MachineError, match=wanted):
        prepare_in_place(lm, replace(STEPS, trained=trained))


def test_a_model_that_does_not_fit_says_so(checkpoint: Path, limited: Limited) -> None:
    with limited(100 * KIB), pytest.raises(MachineError, match=r"does not fit.*--device"):
        LanguageModel.load(checkpoint, device="cuda")


def test_a_model_that_leaves_no_room_for_its_self_check_says_so(
    checkpoint: Path, limited: Limited, tmp_path: Path
) -> None:
    before = held()
    lm = LanguageModel.load(checkpoint, device="cuda")
    size = held() - before
    del lm
    unchecked = shutil.copytree(checkpoint, tmp_path / "copy")
    with limited(size + KIB), pytest.raises(MachineError, match=r"does not fit.*--device"):
        LanguageModel.load(unchecked, device="cuda")


# Of the other readers, most of the memory is not that of a batch.
BATCHED = ["every site", "patch", "likelihood", "generate and score"]


@pytest.mark.parametrize("name", BATCHED)
def test_readers_back_off_and_find_the_same(
    name: str, checkpoint: Path, limited: Limited, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = 0
    if simulated_cuda() is None:  # batches of many blocks of memory
        monkeypatch.setattr(readers, "PROMPTS", LONG)
        least = SMALL_BLOCK + BLOCK
    released: list[str] = []
    release = batching._release
    monkeypatch.setattr(batching, "_release", lambda: (released.append(name), release()))
    lm = LanguageModel.load(checkpoint, device="cuda")
    before = held()
    torch.cuda.reset_peak_memory_stats()
    wanted = READERS[name](lm)
    peak = torch.cuda.max_memory_allocated() - before
    assert not released and peak > least
    with limited(max(int(peak * 0.7), least)):
        found = READERS[name](lm)
    assert released
    compare(found, wanted)


def test_the_command_line_says_in_one_line_that_memory_is_full(
    spillover: Spillover, limited: Limited
) -> None:
    with limited(MIB):
        code, _, errors = spillover("evaluate", "organism", "--device", "cuda", "--out", "run")
    assert code == 1 and errors.count("error:") == 1 and "--device" in errors


# A study


def test_every_arm_of_a_study_has_the_memory_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = load_world(shipped()).prompts(train=40, validation=4, test=4)
    prompts = prompts[prompts["domain"].isin(["safety", "privacy"])]
    prompts.to_json(tmp_path / "prompts.jsonl", orient="records", lines=True)
    plan = organism_plan(str(shipped()), ("safety",), seeds=(0, 1, 2), control=False)
    plan = shortened(replace(plan, prompts=str(tmp_path / "prompts.jsonl")), micro_batch_size=8)
    memory: list[tuple[int, int]] = []
    make = engine.make_arm

    def noted(*arguments: Any) -> Any:
        start = held()
        torch.cuda.reset_peak_memory_stats()
        made = make(*arguments)
        memory.append((start, torch.cuda.max_memory_allocated()))
        return made

    monkeypatch.setattr(engine, "make_arm", noted)
    leave_out_report(monkeypatch)
    with no_collection():
        run_study(plan, tmp_path / "run", Said())
    starts, peaks = zip(*memory, strict=True)
    assert len(memory) == 3 and len(set(starts)) == 1
    assert max(peaks) <= 1.02 * peaks[0]


# Waiting for the device


class Waits(TorchDispatchMode):
    """Counts copies between devices, and numbers that the host reads: it waits at each."""

    count = 0

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        aten = torch.ops.aten
        if func in (aten._to_copy.default, aten.copy_.default):
            other = args[1] if func is aten.copy_.default else made
            self.count += other.device != args[0].device
        self.count += func in (aten._local_scalar_dense.default, aten.nonzero.default)
        return made


@pytest.mark.parametrize("site", ["residual_out", "heads"])
def test_collecting_waits_as_often_for_many_layers_as_for_one(site: str, checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint, device="cuda")
    waits = []
    for layers in ([3], range(4)):
        collect(lm, readers.PROMPTS, layers=layers, sites=[SITES[site]])
        with Waits() as counted:
            collect(lm, readers.PROMPTS, layers=layers, sites=[SITES[site]])
        waits.append(counted.count)
    assert 0 < waits[0] == waits[1]


# The benchmark of GPUs


@pytest.mark.parametrize("part", PARTS)
def test_every_part_of_the_benchmark_runs_and_meets_what_no_clock_decides(part: str) -> None:
    found = PARTS[part].run(True, 1.0)
    json.dumps(found)
    if "skipped" in found:
        return
    timed = {"utilisation", "collect_over_trunk", "peak_over_planned"}
    assert all(met for goal, met in found["met"].items() if goal not in timed), found["met"]


@pytest.mark.parametrize("kind", ["npo", "lora", "separate"])
def test_a_step_waits_for_the_device_a_few_times_only(
    kind: str, checkpoint: Path, trained: Train
) -> None:
    """Copies to the CPU and row picking by masks, in steps of two micro-batches."""
    library = getattr(sys.modules.get("simcuda"), "lib", None)
    if library is None:
        pytest.skip("only the simulated device counts them")
    settings = {**KINDS.get(kind, {"separate_backward": True}), "batch_size": 4}
    waits = []
    for steps in (2, 4):
        lm = LanguageModel.load(checkpoint, device="cuda")
        before = library.sim_syncs()
        trained(lm, **settings, max_steps=steps)
        waits.append(library.sim_syncs() - before)
    assert (waits[1] - waits[0]) / 2 <= MOST_WAITS[kind]
