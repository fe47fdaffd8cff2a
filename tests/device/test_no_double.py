"""On a device without float64 (Apple's GPUs), everything finds what it finds elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from interp.model import LanguageModel, doubled, has_float64
from tests.device.conftest import Train, weights
from tests.device.readers import READERS, compare

ABSENT = not has_float64(torch.device("cuda"))
pytestmark = pytest.mark.skipif(not ABSENT, reason="this device has float64")


def test_float64_values_lie_on_the_cpu_and_keep_their_graph() -> None:
    values = torch.ones(3, device="cuda", requires_grad=True)
    doubled(values).square().sum().backward()
    assert doubled(values).device.type == "cpu" and doubled(values).dtype == torch.float64
    assert values.grad is not None and values.grad.tolist() == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("name", READERS)
def test_readers_find_the_same_without_float64(name: str, checkpoint: Path) -> None:
    found, wanted = (
        READERS[name](LanguageModel.load(checkpoint, device=device)) for device in ("cuda", "cpu")
    )
    compare(found, wanted)


def test_training_gives_the_same_without_float64(checkpoint: Path, trained: Train) -> None:
    found, wanted = (
        weights(trained(LanguageModel.load(checkpoint, device=device)))
        for device in ("cuda", "cpu")
    )
    assert float((found - wanted).norm() / wanted.norm()) < 1e-4
