"""Weights put back one group at a time: the group that was changed is named, nothing stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from interp.errors import InputError
from interp.model import LanguageModel
from interp.patching import (
    Cell,
    Exchange,
    between_models,
    by_layer,
    by_matrix,
    by_module,
    restore,
    weights_from,
)
from tests.checkpoints import LAYERS
from tests.patched_models import PROMPTS, changed, some_log_odds

Checkpoints = Callable[[str], Path]


def test_the_changed_module_is_named(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    after = changed(base, lambda name: ".1." in name and "mlp" in name, scale=4.0)
    exchange = between_models(base, after, PROMPTS)
    for direction in (exchange, exchange.reversed()):
        found = restore(direction, some_log_odds(base))
        for cell, values in zip(found.cells, found.patched, strict=True):
            wanted = found.donor if cell == Cell(1, "mlp") else found.receiver
            assert values == pytest.approx(wanted, abs=1e-6)
    assert np.abs(found.donor - found.receiver).max() > 1e-3


def test_groups_hold_every_parameter_once(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    names = sorted(name for name, _ in lm.model.named_parameters())
    for grouping in (by_layer, by_module, by_matrix):
        groups = grouping(lm)
        assert sorted(name for group in groups.values() for name in group) == names
        assert {cell.layer for cell in groups} == {None, *range(LAYERS)}
    assert len(by_layer(lm)) < len(by_module(lm)) < len(by_matrix(lm))


def test_all_groups_together_are_the_donor_and_then_nothing_is(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    after = changed(base, lambda _: True, scale=0.5)
    prints = base.fingerprint(), after.fingerprint()
    names = [name for name, _ in after.model.named_parameters()]
    with weights_from(base.model, after.model, names):
        assert after.fingerprint() == prints[0]
    assert (base.fingerprint(), after.fingerprint()) == prints
    with pytest.raises(KeyboardInterrupt), weights_from(base.model, after.model, names):
        raise KeyboardInterrupt
    assert (base.fingerprint(), after.fingerprint()) == prints


def test_tied_embeddings_are_put_back_as_one(checkpoint_of: Checkpoints) -> None:
    base = LanguageModel.load(checkpoint_of("qwen2"))
    after = changed(base, lambda name: "embed" in name, scale=0.5)
    found = restore(between_models(base, after, PROMPTS), some_log_odds(base), grouping=by_layer)
    fractions = dict(zip(found.cells, found.fraction, strict=True))
    assert fractions[Cell(None, "model.embed_tokens")] == pytest.approx(1, abs=1e-5)
    assert fractions[Cell(0, "layer")] == 0


def test_models_of_another_make_are_refused(checkpoint_of: Checkpoints) -> None:
    one, other = (LanguageModel.load(checkpoint_of(name)) for name in ("llama", "gpt2"))
    rows = tuple(one.chat.encode(prompt) for prompt in PROMPTS)
    with pytest.raises(InputError, match="adapters merged"):
        restore(Exchange(one, rows, other, rows), some_log_odds(one))
