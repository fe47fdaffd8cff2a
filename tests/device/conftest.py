"""Tests that need a device: run by ``test_devices.py`` in processes that see one.

Other tests see no GPU, so they are the same on every machine. A process sees a device if it was
started with the simulated CUDA, or with ``SPILLOVER_DEVICE_TESTS`` on a machine with a GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from interp.model import LanguageModel
from tests.checkpoints import save_checkpoint
from tests.device.readers import PROMPTS
from unlearning.losses import reference_log_probs
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
)

DEVICES = torch.cuda.device_count() if torch.cuda.is_available() else 0
collect_ignore = ["test_devices.py"] if DEVICES else []
collect_ignore += ["test_one_device.py", "test_no_double.py"] * (not DEVICES)
collect_ignore += ["test_two_devices.py"] * (DEVICES < 2)

#: Limits the memory of the first device to so many bytes more than it holds now.
Limited = Callable[[int], AbstractContextManager[None]]
#: Trains a checkpoint on a device: the checkpoint's folder, the device, and other settings.
Train = Callable[..., LanguageModel]

RESPONSES = ("I cannot help with that.", "No.", "Here is a list of the tools.")
STEPS = TrainingSettings(
    trained="projections", learning_rate=1e-3, batch_size=4, micro_batch_size=2, max_steps=3,
    lora_rank=4, layer=1,
)  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small chat model."""
    return save_checkpoint("qwen2", tmp_path_factory.mktemp("qwen2"))


@pytest.fixture
def trained(tmp_path: Path) -> Train:
    def train(lm: LanguageModel, **settings: Any) -> LanguageModel:
        return unlearned(lm, tmp_path / "trainer", **settings)

    return train


@pytest.fixture
def limited() -> Limited:
    """The memory of the first device, limited as another program would."""

    @contextmanager
    def limit(more: int) -> Iterator[None]:
        gc.collect()  # so that garbage does not count
        simulated = _simulated()
        if simulated is not None:
            simulated.limit(torch.cuda.memory_allocated(0) + more)
        else:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(
                (torch.cuda.memory_allocated(0) + more) / total, 0
            )
        try:
            yield
        finally:
            if simulated is not None:
                simulated.limit(None)
            else:
                torch.cuda.set_per_process_memory_fraction(1.0, 0)

    return limit


def _simulated() -> Any:
    try:
        import simcuda  # type: ignore[import-not-found]
    except ImportError:
        return None
    return simcuda


def unlearned(lm: LanguageModel, folder: Path, **settings: Any) -> LanguageModel:
    """``lm`` after some steps of an objective, with two retain groups."""
    chosen = replace(STEPS, **{"options": {}, **settings})
    lm = prepare_in_place(lm, chosen)
    rows = [
        lm.chat.encode(prompt, RESPONSES[i % len(RESPONSES)]) for i, prompt in enumerate(PROMPTS)
    ]
    forget = [
        Example(str(i), row, reference=known)
        for i, (row, known) in enumerate(zip(rows, reference_log_probs(lm, rows), strict=True))
    ]
    retain = {"a": [Example("a", rows[1])], "b": [Example("b", rows[2])]}
    unlearn_in_place(lm, Mixture(forget, retain, seed=1), chosen, folder=folder)
    return lm


def weights(lm: LanguageModel) -> torch.Tensor:
    """All trainable weights as one vector, on the CPU."""
    found: Sequence[torch.Tensor] = [p for p in lm.model.parameters() if p.requires_grad]
    return torch.cat([p.detach().cpu().float().flatten() for p in found])
