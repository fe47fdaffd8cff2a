"""Retain weights as ratios of gradient norms: the norms written out, and what has no ratio."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import TrainerCallback

from analyses.study import weights_to_try
from interp.errors import InputError
from interp.model import LanguageModel, Tokens
from unlearning.losses.registry import FORGET, objective
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
)

Checkpoints = Callable[[str], Path]
BALANCED = TrainingSettings(
    objective="gradient_ascent", retain_unit="gradient", retain_weight=0.3, retain_ratio=2,
    retain_shares={"bias": 1, "privacy": 3}, trained="projections", batch_size=6, max_steps=1,
    learning_rate=0.0,
)  # fmt: skip


def count(seen: list[bool], *_: Any) -> None:
    seen.append(True)


class Stop(TrainerCallback):
    """Stops before the first step."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def own_objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    for name in ("_entries", "_abouts", "_origins", "_makers"):
        monkeypatch.setattr(FORGET, name, dict(getattr(FORGET, name)))


def examples(lm: LanguageModel, name: str, count: int) -> list[Example]:
    return [
        Example(f"{name}-{i}", lm.chat.encode(f"{name} {i}?" * (1 + i % 3), f"Answer {i} " * 2))
        for i in range(count)
    ]


def mixture(lm: LanguageModel) -> Mixture:
    """Every group has as many examples as the only batch takes of it."""
    retain = {name: examples(lm, name, 6) for name in ("bias", "privacy")}
    return Mixture(examples(lm, "safety", 6), retain, ratio=2)


def weights(lm: LanguageModel, settings: TrainingSettings, folder: Path) -> dict[str, float]:
    lm = prepare_in_place(lm, settings)
    log = unlearn_in_place(lm, mixture(lm), settings, folder=folder)
    return {name: float(log[f"weight_{name}"].iloc[0]) for name in ("bias", "privacy")}


def log_prob(lm: LanguageModel, tokens: Tokens) -> Tensor:
    """One row, no padding."""
    logits = lm.model(input_ids=torch.tensor([tokens.ids])).logits.float()
    log_probs = F.log_softmax(logits, dim=-1)
    span = tokens.spans["response"]
    return sum(log_probs[0, t - 1, tokens.ids[t]] for t in range(span.start, span.stop))


@pytest.mark.parametrize(("family", "micro"), [("qwen2", 6), ("qwen2", 2), ("gemma2", 3)])
def test_the_weight_is_the_ratio_of_the_norms_written_out(
    family: str, micro: int, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(BALANCED, micro_batch_size=micro)
    found = weights(LanguageModel.load(checkpoint_of(family)), settings, tmp_path)
    lm = prepare_in_place(LanguageModel.load(checkpoint_of(family)), settings)

    def norm(terms: list[tuple[float, list[Example]]]) -> float:
        lm.model.zero_grad()
        total = sum(w * log_prob(lm, one.tokens) / len(rows) for w, rows in terms for one in rows)
        assert isinstance(total, Tensor)
        total.backward()
        gradients = [p.grad for p in lm.model.parameters() if p.grad is not None]
        return math.sqrt(sum(float(g.double().square().sum()) for g in gradients))

    mixed = mixture(lm)
    forget = norm([(1.0, list(mixed.forget))])
    retain = norm([(0.25, list(mixed.retain["bias"])), (0.75, list(mixed.retain["privacy"]))])
    whole = 0.3 * forget / retain
    assert found["bias"] == pytest.approx(whole / 4, rel=1e-4)
    assert found["privacy"] == pytest.approx(whole * 3 / 4, rel=1e-4)


def test_the_ratio_recomputes_activations_where_the_steps_do(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """Else it would need more memory than any step."""
    forwards = []
    for again in (False, True):
        settings = replace(BALANCED, activation_checkpointing=again)
        lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)
        seen: list[bool] = []
        lm.layers[0].self_attn.register_forward_hook(partial(count, seen))
        with pytest.raises(KeyboardInterrupt):  # after the ratio, before the first step
            unlearn_in_place(lm, mixture(lm), settings, folder=tmp_path, callbacks=[Stop()])
        forwards.append(len(seen))
    assert forwards[1] == 2 * forwards[0] > 0


def test_a_weight_of_nothing_needs_no_ratio(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    found = weights(
        LanguageModel.load(checkpoint_of("qwen2")), replace(BALANCED, retain_weight=0.0), tmp_path
    )
    assert found == {"bias": 0.0, "privacy": 0.0}


@pytest.mark.usefixtures("own_objectives")
def test_the_unit_carries_over_to_a_rescaled_loss(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """A loss in other units needs another weight, but the same ratio."""

    @objective
    def ten_times_as_steep(log_probs: Tensor, mask: Tensor) -> Tensor:
        return 10 * (log_probs * mask).sum(-1)

    once, tenfold = (
        weights(
            LanguageModel.load(checkpoint_of("qwen2")), replace(BALANCED, objective=name),
            tmp_path / name,
        )
        for name in ("gradient_ascent", "ten_times_as_steep")
    )  # fmt: skip
    assert tenfold["bias"] == pytest.approx(10 * once["bias"], rel=1e-4)


@pytest.mark.usefixtures("own_objectives")
def test_what_has_no_gradient_at_the_base_has_no_ratio(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="distance to the base model.*--retain-unit loss"):
        replace(BALANCED, retain_objective="kl")
    with pytest.raises(InputError, match="retain_unit is 'norm'"):
        replace(BALANCED, retain_unit="norm")

    @objective
    def flat(log_probs: Tensor, mask: Tensor) -> Tensor:
        return 0 * (log_probs * mask).sum(-1)

    lm = LanguageModel.load(checkpoint_of("qwen2"))
    with pytest.raises(InputError, match="flat has no gradient at the base model"):
        weights(lm, replace(BALANCED, objective="flat"), tmp_path)


def test_weights_are_searched_from_small_to_large_in_the_unit_that_carries_over() -> None:
    plain = TrainingSettings()
    tried, settings = weights_to_try(None, None, plain)
    assert tried[0] == 0.03 and list(tried) == sorted(tried)
    assert settings.retain_unit == "gradient"
    assert weights_to_try([30.0], None, plain) == ((30.0,), plain)
    assert weights_to_try([10.0, 0.1, 1.0, 0.1], None, plain)[0] == (0.1, 1.0, 10.0)
    assert weights_to_try([0.5], "gradient", plain)[1].retain_unit == "gradient"
    distance = replace(plain, retain_objective="kl")
    assert weights_to_try(None, None, distance)[1].retain_unit == "loss"
    assert weights_to_try(None, None, replace(plain, adaptive=True))[0] == (1.0,)


def test_a_setting_without_effect_is_no_part_of_an_arm_s_key() -> None:
    assert "retain_unit" not in TrainingSettings().described()
    assert BALANCED.described()["retain_unit"] == "gradient"
