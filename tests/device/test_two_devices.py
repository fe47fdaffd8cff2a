"""On two devices: training stays on the chosen one, and a model may lie on both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from analyses.contain.methods.guards import along
from analyses.options import WorkerOptions
from analyses.runs import Progress
from analyses.study import ArmPlan, StudyPlan, arms_in_workers, require_workers
from interp.errors import InputError
from interp.model import Chat, LanguageModel
from tests.device.conftest import Train, weights
from tests.device.readers import READERS, compare
from tests.device.test_one_device import KINDS
from tests.lost_worker import note_device
from unlearning.organism import shipped

FIRST_DEVICE, LAYERS = 2, 4


def spread(checkpoint: Path) -> LanguageModel:
    """The model with its first layers on one device and its last ones on the other."""
    places: dict[str, int] = {"model.embed_tokens": 0, "model.rotary_emb": 0}
    places |= {f"model.layers.{i}": int(i >= FIRST_DEVICE) for i in range(LAYERS)}
    places |= {"model.norm": 1, "lm_head": 0}
    model = AutoModelForCausalLM.from_pretrained(checkpoint, device_map=places)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    return LanguageModel(model.eval(), tokenizer, Chat(tokenizer), "spread")


# One process trains on one device


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_training_uses_the_chosen_device_alone(
    device: str, checkpoint: Path, trained: Train
) -> None:
    other = 1 - (torch.device(device).index or 0)
    before = torch.cuda.memory_allocated(other)
    lm = trained(LanguageModel.load(checkpoint, device=device))
    assert {p.device.index for p in lm.model.parameters()} == {1 - other}
    torch.cuda.reset_peak_memory_stats(other)
    assert torch.cuda.memory_allocated(other) == before
    assert torch.cuda.current_device() == 0
    # Two devices are no reason to train on twice as many rows.
    wanted = weights(trained(LanguageModel.load(checkpoint, device="cpu")))
    assert float((weights(lm) - wanted).norm() / wanted.norm()) < 1e-4


# A model on both devices


@pytest.fixture(scope="module")
def both(checkpoint: Path) -> tuple[LanguageModel, LanguageModel]:
    return spread(checkpoint), LanguageModel.load(checkpoint, device="cpu")


@pytest.mark.parametrize("name", READERS)
def test_a_model_on_two_devices_is_read_and_edited_as_on_one(
    name: str, both: tuple[LanguageModel, LanguageModel]
) -> None:
    found, wanted = (READERS[name](lm) for lm in both)
    compare(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_on_two_devices_is_trained_as_on_one(
    kind: str, checkpoint: Path, trained: Train
) -> None:
    lm = trained(spread(checkpoint), **KINDS[kind])
    assert {p.device.index for p in lm.model.parameters()} == {0, 1}
    wanted = weights(trained(LanguageModel.load(checkpoint, device="cpu"), **KINDS[kind]))
    assert float((weights(lm) - wanted).norm() / wanted.norm()) < 1e-4


def test_a_step_is_projected_on_both_devices() -> None:
    drawn = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    step, *gradients = ([one[0].to("cuda:0"), one[1].to("cuda:1")] for one in drawn)
    for found, wanted in zip(along(step, gradients), along(drawn[0], drawn[1:]), strict=True):
        assert torch.allclose(found.cpu(), wanted, atol=1e-5)


# Workers


def test_each_worker_takes_a_device(tmp_path: Path) -> None:
    plan = StudyPlan("organism", ())
    with arms_in_workers(
        plan, tmp_path, Progress(quiet=True),
        workers=WorkerOptions(workers=2), make_one=note_device,
    ) as together:  # fmt: skip
        together(plan, [ArmPlan("a"), ArmPlan("b")])
    used = {path.read_text() for path in tmp_path.glob("*.txt")}
    assert used == {"0", "1"} or torch.cuda.get_device_name() != "Simulated GPU"


def test_workers_share_a_device_only_if_asked_and_if_they_fit() -> None:
    plan = StudyPlan(str(shipped()), (), model_options={"device": "cuda"})
    require_workers(plan, WorkerOptions(workers=2))
    require_workers(replace(plan, model_options={"device": "cpu"}), WorkerOptions(workers=9))
    with pytest.raises(InputError, match="--workers 2, or --share-device"):
        require_workers(plan, WorkerOptions(workers=3))
    require_workers(plan, WorkerOptions(workers=4, share_device=True))
    one = replace(plan, model_options={"device": "cuda:1"})
    with pytest.raises(InputError, match="share"):
        require_workers(one, WorkerOptions(workers=2))
    with pytest.raises(InputError, match="do not fit"):
        require_workers(one, WorkerOptions(workers=200_000, share_device=True))
