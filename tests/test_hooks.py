"""Hooks read and replace what flows through a module, and are gone afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp.model import LanguageModel, Point, active_edits, reading, stopping_after, writing
from interp.model.hooks import EarlyExit

Checkpoints = Callable[[str], Path]

PROMPT = "Which tools does a carpenter need to repair a broken chair?"


def logits_of(lm: LanguageModel) -> Tensor:
    return lm.logits(lm.chat.pad([lm.chat.encode(PROMPT)]), keep=1)


def hooks_of(lm: LanguageModel) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in lm.model.modules()
    )


def test_stopping_hides_no_other_error(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    with stopping_after(lm.layers[1]):
        raise EarlyExit
    with pytest.raises(ValueError), stopping_after(lm.layers[1]):
        raise ValueError
    assert hooks_of(lm) == 0


@torch.no_grad()
def test_writing_is_seen_downstream_and_edits_nothing_in_place(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    plain = logits_of(lm)
    read: list[Tensor] = []
    with (
        reading(lm.layers[:1], lambda _, hidden: read.append(hidden)),
        writing(lm.layers[0], lambda hidden: hidden * 0),
    ):
        edited = logits_of(lm)
    assert (edited - plain).abs().max() > 1e-3
    # Read before the edit, whose result is another tensor.
    assert read[0].abs().max() > 0
    with writing(lm.layers[0], lambda hidden: hidden):
        torch.testing.assert_close(logits_of(lm), plain)
    torch.testing.assert_close(logits_of(lm), plain)


@torch.no_grad()
def test_a_layer_s_input_is_the_output_of_the_one_before(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    read: dict[int, Tensor] = {}
    with reading([lm.layers[0], Point(lm.layers[1], before=True)], read.__setitem__):
        logits_of(lm)
    assert torch.equal(read[0], read[1])
    with writing(lm.layers[0], lambda hidden: hidden * 2):
        after = logits_of(lm)
    with writing(Point(lm.layers[1], before=True), lambda hidden: hidden * 2):
        torch.testing.assert_close(logits_of(lm), after)


@torch.no_grad()
def test_what_is_passed_by_name_can_be_replaced_too(checkpoint: Path) -> None:
    """Attention gets its input by name in most families."""
    lm = LanguageModel.load(checkpoint)
    layer = lm.layers[0]
    attention = next(m for n, m in layer.named_children() if "attn" in n)
    plain = logits_of(lm)
    with writing(Point(attention, before=True), lambda hidden: hidden * 0):
        without = logits_of(lm)
    assert (without - plain).abs().max() > 1e-6
    seen: list[Tensor] = []
    with (
        writing(attention, lambda hidden: hidden + 1),
        reading([attention], lambda _, hidden: seen.append(hidden)),
    ):
        logits_of(lm)
    with reading([attention], lambda _, hidden: seen.append(hidden)):
        logits_of(lm)
    torch.testing.assert_close(seen[0], seen[1] + 1)


def test_edits_are_known_while_they_are_active_and_only_then(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gemma2"))
    assert not active_edits(lm.model)
    with reading(lm.layers, lambda *_: None):
        assert not active_edits(lm.model)
    for point in (lm.layers[1], Point(lm.layers[2], before=True)):
        with writing(point, lambda hidden: hidden):
            assert active_edits(lm.model)
        with pytest.raises(KeyboardInterrupt), writing(point, lambda hidden: hidden):
            raise KeyboardInterrupt
        assert not active_edits(lm.model)
    assert hooks_of(lm) == 0


@torch.no_grad()
def test_what_a_reader_returns_is_no_edit(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    plain = logits_of(lm)
    with reading([lm.layers[1]], lambda _, hidden: hidden * 0):  # type: ignore[arg-type, return-value]
        torch.testing.assert_close(logits_of(lm), plain)
