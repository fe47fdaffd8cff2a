"""Training under an ablation (CAFT): the interventions' own hooks around the trainer's forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.activations import collect
from interp.activations.window import in_prompt
from interp.interventions import ablate
from interp.model import LanguageModel, active_edits
from tests.patched_models import hooks_of
from tests.test_trainer import MOVING, PROMPTS, STILL, Gradients, forgotten, relative_difference
from unlearning.training import Mixture, prepare_in_place, unlearn_in_place

Checkpoints = Callable[[str], Path]


def direction() -> torch.Tensor:
    return torch.randn(64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_gradients_are_those_of_the_ablated_model_however_they_are_computed(
    family: str, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    def gradients(**options: object) -> torch.Tensor:
        settings = replace(STILL, max_steps=1, **options)
        lm = prepare_in_place(LanguageModel.load(checkpoint_of(family)), settings)
        mixture, found = Mixture(forgotten(lm)), Gradients()
        unlearn_in_place(lm, mixture, settings, folder=tmp_path, callbacks=[found],
                around_forward=lambda: ablate(lm, direction()))  # fmt: skip
        assert not active_edits(lm.model)
        return found.steps[0]

    wanted = gradients()
    assert relative_difference(gradients(activation_checkpointing=True), wanted) < 1e-5
    assert relative_difference(gradients(micro_batch_size=1), wanted) < 1e-5
    settings = replace(STILL, max_steps=1)
    lm, plain = prepare_in_place(LanguageModel.load(checkpoint_of(family)), settings), Gradients()
    unlearn_in_place(lm, Mixture(forgotten(lm)), settings, folder=tmp_path, callbacks=[plain])
    assert relative_difference(plain.steps[0], wanted) > 1e-2


def test_what_writes_learns_nothing_along_the_ablated_direction(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """The last matrix of the MLP gets no gradient there, at the prompt's tokens or any other."""
    lm = prepare_in_place(LanguageModel.load(checkpoint_of("llama")), MOVING)
    unit = direction() / direction().norm()
    before = [layer.mlp.down_proj.weight.detach().clone() for layer in lm.layers]
    settings = replace(MOVING, max_steps=1, micro_batch_size=4, trained="projections")
    gradients: list[torch.Tensor] = []

    class Look(Gradients):
        def on_pre_optimizer_step(self, *_: object, **__: object) -> None:
            gradients.extend(layer.mlp.down_proj.weight.grad.clone() for layer in lm.layers)

    unlearn_in_place(lm, Mixture(forgotten(lm)), settings, folder=tmp_path, callbacks=[Look()],
            around_forward=lambda: ablate(lm, unit))  # fmt: skip
    for gradient, weight, layer in zip(gradients, before, lm.layers, strict=True):
        assert gradient.norm() > 0
        assert (unit @ gradient).norm() < 1e-5 * gradient.norm()
        assert not torch.equal(layer.mlp.down_proj.weight, weight)
    # The trained model is free again: what was ablated is back.
    along = collect(lm, PROMPTS).states @ unit.numpy()
    assert np.abs(along).max() > 1e-3


def test_positions_hold_in_training_too(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), replace(STILL, max_steps=1))
    log = unlearn_in_place(
        lm, Mixture(forgotten(lm)), replace(STILL, max_steps=1), folder=tmp_path,
        around_forward=lambda: ablate(lm, direction(), positions=in_prompt),
    )  # fmt: skip
    assert np.isfinite(log["loss"]).all() and hooks_of([lm]) == 0
