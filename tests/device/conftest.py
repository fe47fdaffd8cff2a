"""Tests that need a device: run by ``test_devices.py`` in processes that see one.

Other tests see no GPU, so they are the same on every machine. A process sees a device if it was
started with the simulated CUDA, or with ``SPILLOVER_DEVICE_TESTS`` on a machine with a GPU.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
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
#: Prepares a model and trains it for some steps, with other settings.
Train = Callable[..., LanguageModel]

# Bytes of CUDA's allocator: a tensor takes a multiple of the first, out of blocks of the others.
SMALLEST, SMALL_BLOCK, BLOCK = 512, 2 * 2**20, 20 * 2**20

RESPONSES = ("I cannot help with that.", "No.", "Here is a list of the tools.")
STEPS = TrainingSettings(
    trained="projections", learning_rate=1e-3, batch_size=4, micro_batch_size=2, max_steps=3,
    lora_rank=4, layer=1,
)  # fmt: skip


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small chat model."""
    return save_checkpoint("qwen2", tmp_path_factory.mktemp("qwen2"))


@pytest.fixture(scope="session", autouse=True)
def warm() -> None:
    """Libraries keep workspaces on a device from their first product on, forward and backward."""
    if DEVICES:
        weight = torch.ones(8, 8, device="cuda", requires_grad=True)
        (weight @ weight).sum().backward()


@pytest.fixture
def trained(tmp_path: Path) -> Train:
    def train(lm: LanguageModel, **settings: Any) -> LanguageModel:
        lm, mixture, chosen = ready(lm, **settings)
        unlearn_in_place(lm, mixture, chosen, folder=tmp_path / "trainer")
        return lm

    return train


@pytest.fixture
def limited() -> Limited:
    """The memory of the first device, limited as another program would.

    A real device gives memory in blocks of :data:`SMALL_BLOCK` to tensors under 1 MiB, and of up to
    :data:`BLOCK` to larger ones, and a tensor also finds room in the blocks that earlier tests left
    partly free. So these are filled first, and the limit counts whole blocks: less than
    ``SMALL_BLOCK`` more is nothing more.
    """

    @contextmanager
    def limit(more: int) -> Iterator[None]:
        gc.collect()  # so that garbage does not count
        if (simulated := simulated_cuda()) is not None:
            simulated.limit(torch.cuda.memory_allocated(0) + more)
            undo, filled = partial(simulated.limit, None), []
        else:
            torch.cuda.empty_cache()
            _allow(0)
            filled = _filled()
            _allow(more)
            undo = partial(torch.cuda.set_per_process_memory_fraction, 1.0, 0)
        try:
            yield
        finally:
            undo()
            filled.clear()

    return limit


def _allow(more: int) -> None:
    """Let the real device's allocator have ``more`` bytes than it has now."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(0) + more) / total, 0)


def _filled() -> list[torch.Tensor]:
    """Tensors in all that is free in the blocks which the allocator has."""
    found: list[torch.Tensor] = []
    size = 2 * BLOCK
    while size >= SMALLEST:
        try:
            found.append(torch.empty(size, dtype=torch.uint8, device="cuda:0"))
        except torch.OutOfMemoryError:
            size //= 2
    return found


def simulated_cuda() -> Any:
    """The simulated CUDA's module; None on a real device."""
    try:
        import simcuda  # type: ignore[import-not-found]
    except ImportError:
        return None
    return simcuda


def ready(lm: LanguageModel, **settings: Any) -> tuple[LanguageModel, Mixture, TrainingSettings]:
    """``lm`` with its parameters to train, a mixture with two retain groups, and the settings."""
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
    return lm, Mixture(forget, retain, seed=1), chosen


def weights(lm: LanguageModel) -> torch.Tensor:
    """All trainable weights as one vector, on the CPU."""
    found: Sequence[torch.Tensor] = [p for p in lm.model.parameters() if p.requires_grad]
    return torch.cat([p.detach().cpu().float().flatten() for p in found])
