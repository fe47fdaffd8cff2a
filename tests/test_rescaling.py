"""The weight change, scaled: its two ends are the two models, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from analyses.matrix.rescaling import scaled_change
from interp.errors import InputError
from interp.model import LanguageModel


def perturbed(folder: Path) -> LanguageModel:
    lm = LanguageModel.load(folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in lm.model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return lm


def test_the_ends_are_the_two_models_and_the_line_between_is_straight(
    checkpoint_of: Callable[[str], Path],
) -> None:
    folder = checkpoint_of("gpt2")
    base, after = LanguageModel.load(folder), perturbed(folder)
    before = after.fingerprint()
    start, end = (dict(lm.model.named_parameters()) for lm in (base, after))
    kept = {name: weight.detach().clone() for name, weight in end.items()}
    with scaled_change(base, after) as scale:
        scale(0.0)
        assert after.fingerprint() == base.fingerprint()
        scale(0.25)
        for name, weight in end.items():
            quarter = 0.75 * start[name] + 0.25 * kept[name]
            assert torch.allclose(weight, quarter, atol=1e-6)
        scale(1.25)
    assert after.fingerprint() == before != base.fingerprint()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_weights_go_as_far_as_the_scale_says(
    checkpoint_of: Callable[[str], Path], dtype: torch.dtype
) -> None:
    """Also where the change is smaller than the distance between two numbers."""
    folder = checkpoint_of("gpt2")
    base, after = (LanguageModel.load(folder, dtype=dtype) for _ in range(2))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in after.model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(weight.float() + 1e-3 * weight.float().std() * noise)
    before = after.fingerprint()
    start, end = (dict(lm.model.named_parameters()) for lm in (base, after))
    change = {name: (end[name] - start[name]).detach().float() for name in end}
    with scaled_change(base, after) as scale:
        scale(0.0)
        assert after.fingerprint() == base.fingerprint()
        for s in (0.125, 0.4, 0.6, 0.875):
            scale(s)
            moved = {name: (end[name] - start[name]).detach().float() for name in end}
            along, whole = (
                sum(float((one[name] * change[name]).sum()) for name in change)
                for one in (moved, change)
            )
            assert along / whole == pytest.approx(s, abs=0.02)
        scale(1.0)
        assert after.fingerprint() == before


def test_weights_are_put_back_when_something_fails(checkpoint_of: Callable[[str], Path]) -> None:
    base, after = (make(checkpoint_of("gpt2")) for make in (LanguageModel.load, perturbed))
    before = after.fingerprint()
    with pytest.raises(RuntimeError, match="stopped"), scaled_change(base, after) as scale:
        scale(0.5)
        raise RuntimeError("stopped")
    assert after.fingerprint() == before


def test_models_of_other_shapes_have_no_change_to_scale(
    checkpoint_of: Callable[[str], Path],
) -> None:
    base, other = (LanguageModel.load(checkpoint_of(name)) for name in ("gpt2", "llama"))
    with pytest.raises(InputError, match="different parameters"), scaled_change(base, other):
        pass
