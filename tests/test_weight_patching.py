"""Weights put back one group at a time: the group that was changed is named, nothing stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from interp.errors import InputError
from interp.model import LanguageModel
from interp.patching import (
    Cell,
    PatchRuns,
    between_models,
    by_layer,
    by_matrix,
    by_module,
    in_layers,
    moved_by,
    patch_weights,
    weights_from,
)
from interp.patching.weights import scrambled, weights_scrambled
from tests.checkpoints import LAYERS
from tests.patched_models import PROMPTS, changed, some_log_odds
from tests.planted_causes import Ground, Plant
from unlearning.organism import shipped

Checkpoints = Callable[[str], Path]


def test_the_changed_module_is_named(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    after = changed(base, lambda name: ".1." in name and "mlp" in name, scale=4.0)
    runs = between_models(base, after, PROMPTS)
    for direction in (runs, runs.reversed()):
        found = patch_weights(direction, some_log_odds(base))
        for cell, values in zip(found.cells, found.patched, strict=True):
            wanted = found.source if cell == Cell(1, "mlp") else found.target
            assert values == pytest.approx(wanted, abs=1e-6)
    assert np.abs(found.source - found.target).max() > 1e-3


def test_groups_hold_every_parameter_once(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    names = sorted(name for name, _ in lm.model.named_parameters())
    for grouping in (by_layer, by_module, by_matrix):
        groups = grouping(lm)
        assert sorted(name for group in groups.values() for name in group) == names
        assert {cell.layer for cell in groups} == {None, *range(LAYERS)}
    assert len(by_layer(lm)) < len(by_module(lm)) < len(by_matrix(lm))


def test_all_groups_together_are_the_source_and_then_nothing_is(checkpoint: Path) -> None:
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
    found = patch_weights(
        between_models(base, after, PROMPTS), some_log_odds(base), grouping=by_layer
    )
    fractions = dict(zip(found.cells, found.fraction, strict=True))
    assert fractions[Cell(None, "model.embed_tokens")] == pytest.approx(1, abs=1e-5)
    assert fractions[Cell(0, "layer")] == 0


def test_models_of_another_make_are_refused(checkpoint_of: Checkpoints) -> None:
    one, other = (LanguageModel.load(checkpoint_of(name)) for name in ("llama", "gpt2"))
    rows = tuple(one.chat.encode(prompt) for prompt in PROMPTS)
    with pytest.raises(InputError, match="adapters merged"):
        patch_weights(PatchRuns(one, rows, other, rows), some_log_odds(one))


def test_a_scrambled_change_has_its_norm_and_singular_values() -> None:
    change = torch.randn(7, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5)
    for seed in range(3):
        other = scrambled(change, torch.Generator().manual_seed(seed))
        assert torch.allclose(torch.linalg.svdvals(other), torch.linalg.svdvals(change), atol=1e-5)
        assert not torch.allclose(other, change)
    # Signs are drawn, so that a change in one direction is none on average.
    ones = [scrambled(torch.ones(6, 4), torch.Generator().manual_seed(i)) for i in range(400)]
    assert torch.stack(ones).mean(dim=0).abs().max() < 0.2
    assert all((one.abs() == 1).all() for one in ones)
    vector = torch.arange(6.0)
    assert scrambled(vector, torch.Generator()).abs().sort().values.tolist() == vector.tolist()


def test_scrambled_weights_lie_as_far_away_and_are_put_back(checkpoint: Path) -> None:
    base = LanguageModel.load(checkpoint)
    after = changed(base, lambda _: True, scale=0.5)
    prints = base.fingerprint(), after.fingerprint()
    names = [name for name, _ in after.model.named_parameters()]
    own = {name: after.model.get_parameter(name).detach().clone() for name in names}
    with pytest.raises(KeyboardInterrupt), weights_scrambled(base.model, after.model, names, 3):
        for name in names:
            moved = (after.model.get_parameter(name).detach() - own[name]).norm()
            there = (base.model.get_parameter(name).detach() - own[name]).norm()
            assert float(moved) == pytest.approx(float(there), rel=1e-4, abs=1e-6)
        raise KeyboardInterrupt
    assert (base.fingerprint(), after.fingerprint()) == prints


@pytest.mark.parametrize("share", [0.1, 1e-3, 1e-4])
def test_random_changes_of_rounded_weights_are_as_long_as_trained_ones(share: float) -> None:
    """bfloat16 swallows most of a sum whose second part is small."""
    generator = torch.Generator().manual_seed(0)
    base, after = nn.Linear(96, 64), nn.Linear(96, 64)
    change = share * base.weight.detach().std() * torch.randn(64, 96, generator=generator)
    after.weight.data = base.weight.data + change
    base, after = base.bfloat16(), after.bfloat16()
    own, length = base.weight.data.clone(), float((after.weight - base.weight).data.float().norm())
    with weights_scrambled(after, base, ["weight"], 3):
        assert float((base.weight.data - own).float().norm()) == pytest.approx(length, rel=0.1)
    moved = moved_by(own, change)
    assert moved.dtype == own.dtype
    assert float((moved - own).float().norm()) == pytest.approx(float(change.norm()), rel=0.02)
    apart = torch.linalg.vector_norm((moved_by(own, change, dim=-1) - own).float(), dim=-1)
    assert torch.allclose(apart.mean(), change.norm(dim=-1).mean(), rtol=0.1)


def test_what_was_planted_stands_out_from_edits_as_large() -> None:
    ground = Ground.load(shipped())
    after = ground.after(Plant("offset", "bias", 1, 0.9, 0))
    runs = between_models(ground.lm, after, ground.texts("bias", "test")[0])
    found = patch_weights(runs, ground.readout, controls=20).to_dataframe()
    planted = (found["layer"] == 1) & (found["component"] == "mlp")
    assert (found["p_family_wise"] <= 0.05).tolist() == planted.tolist()
    assert found.loc[planted, "fraction"].item() == pytest.approx(1, abs=1e-4)
    assert found.loc[planted, "control_high"].item() < found.loc[planted, "effect"].item()
    assert (found.loc[~planted, ["control_low", "control_high"]] == 0).all(axis=None)


def test_noise_in_every_weight_stands_out_nowhere(checkpoint_of: Checkpoints) -> None:
    base = LanguageModel.load(checkpoint_of("qwen2"))
    single, best = [], []
    for seed in range(5):
        after = changed(base, lambda _: True, scale=0.02, seed=seed)
        found = patch_weights(
            between_models(base, after, PROMPTS), some_log_odds(base), controls=19, seed=seed,
            grouping=in_layers(by_module, [0, 2]),
        ).to_dataframe()  # fmt: skip
        assert set(found["layer"].dropna()) == {0, 2}
        touched = found["effect"] != 0
        single += list(found.loc[touched, "p"] <= 0.05)
        best.append(found["p_family_wise"].min() <= 0.05)
    assert np.mean(single) < 0.2
    assert sum(best) <= 1
