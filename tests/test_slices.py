"""Slices: a row trains its own, the value is the plain adapter's, and a slice can be deleted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from interp.errors import InputError
from interp.model import LanguageModel, Tokens, merged
from interp.store import read_json
from tests.conftest import Spillover
from tests.more_families import GROUPED, random_model
from unlearning.data import DOMAINS
from unlearning.organism import (
    SliceCheck,
    Slices,
    World,
    recipes,
    shipped,
    slice_check_of,
    slice_deleted,
)
from unlearning.organism.circuits import ALONE, OTHERS_ON, OWN_ON, Sliced
from unlearning.organism.training import Lesson
from unlearning.training import TrainingSettings, prepare_in_place

NAMES = ("safety", "privacy", "bias")


@pytest.fixture
def lm(checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    """A model with adapters of rank 6 whose halves are both random."""
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    lm = prepare_in_place(lm, TrainingSettings(lora_rank=6, lora_alpha=12))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05, generator=generator)
    return lm


@pytest.fixture
def rows(lm: LanguageModel) -> list[Tokens]:
    """Prompts of different lengths with a response."""
    return [lm.chat.encode("so " * n, "Sorry, no.") for n in (1, 4, 2)]


def loss_of(lm: LanguageModel, rows: list[Tokens], of: list[int] | None = None) -> torch.Tensor:
    batch = lm.chat.pad(rows, lm.device)
    logits = lm.model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
    ).logits
    return logits[of if of is not None else slice(None), -1].square().sum()


def by_slice(lm: LanguageModel, width: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The gradients in every slice."""
    for name, parameter in lm.model.named_parameters():
        if "lora_" in name:
            assert parameter.grad is not None
            axis = 0 if ".lora_A." in name else 1
            yield from enumerate(parameter.grad.split(width, dim=axis))


@pytest.mark.parametrize("way", ["masks", "owners"])
def test_a_row_trains_its_own_slice_as_without_routing(
    lm: LanguageModel, rows: list[Tokens], way: str
) -> None:
    slices = Slices(lm.model, NAMES)
    plain = loss_of(lm, rows[1:2])
    plain.backward()
    whole = list(by_slice(lm, slices.width))
    lm.model.zero_grad()
    own = torch.eye(3, dtype=torch.bool)
    owners = {row.ids: name for row, name in zip(rows, NAMES, strict=True)}
    routing = slices.rows(own) if way == "masks" else slices.owned(owners)
    with routing:
        loss = loss_of(lm, rows, [1])
        loss.backward()
    assert loss.item() == pytest.approx(plain.item(), rel=1e-4)
    for (place, masked), (_, free) in zip(by_slice(lm, slices.width), whole, strict=True):
        if place == 1:  # the second row's
            torch.testing.assert_close(masked, free, rtol=1e-3, atol=1e-4)
            assert masked.any()
        else:
            assert not masked.any()
    assert loss_of(lm, rows).item() > 0 and not any(
        one._forward_hooks for one in lm.model.modules()
    )


def test_rows_without_an_owner_train_all_slices(lm: LanguageModel, rows: list[Tokens]) -> None:
    slices = Slices(lm.model, NAMES)
    with slices.owned({rows[0].ids: "bias"}):
        loss_of(lm, rows, [2]).backward()
    assert all(gradient.any() for _, gradient in by_slice(lm, slices.width))


def test_a_deleted_slice_is_one_that_writes_nothing(
    lm: LanguageModel, rows: list[Tokens], tmp_path: Path
) -> None:
    slices = Slices(lm.model, NAMES)
    slices.save(tmp_path)
    taught = lm.with_model(merged(copy.deepcopy(lm.model)))
    with torch.no_grad():
        whole = loss_of(lm, rows).item()
        for name, parameter in lm.model.named_parameters():
            if ".lora_B." in name:  # the second slice's columns
                parameter[:, slices.width : 2 * slices.width] = 0
        off = loss_of(lm, rows).item()
    assert off != pytest.approx(whole, rel=1e-3)
    lm = taught
    before = {name: one.clone() for name, one in lm.model.state_dict().items()}
    with torch.no_grad(), slice_deleted(lm, tmp_path, "privacy"):
        assert loss_of(lm, rows).item() == pytest.approx(off, rel=1e-3)
    assert all(torch.equal(one, before[name]) for name, one in lm.model.state_dict().items())
    with (
        pytest.raises(InputError, match="has no slice toxicity; it has safety, privacy, bias"),
        slice_deleted(lm, tmp_path, "toxicity"),
    ):
        pass


def test_ranks_that_cannot_be_divided_are_refused(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of rank 6 cannot be divided into 4 equal slices"):
        Slices(lm.model, [*NAMES, "toxicity"])
    with pytest.raises(InputError, match="keeps no slices"), slice_deleted(lm, tmp_path, "bias"):
        pass


def test_fused_experts_are_not_routed() -> None:
    lm = random_model("MixtralConfig", {**GROUPED, "num_local_experts": 2})
    lm = prepare_in_place(lm, TrainingSettings(lora_rank=6, lora_alpha=6))
    with pytest.raises(InputError, match="adapted as a parameter; give --circuits shared"):
        Slices(lm.model, NAMES)


@pytest.mark.parametrize(("own", "other", "passed"), [(0.9, 0.1, True), (0.9, 0.2, False),
                                                      (0.7, 0.0, False)])  # fmt: skip
def test_the_check_compares_own_and_other_domains(own: float, other: float, passed: bool) -> None:
    lost = np.full((3, 3), other) - other / 2
    np.fill_diagonal(lost, own)
    lost[0, 2] = other
    refused: Any = pd.Series(1.0, index=NAMES)
    check = SliceCheck(refused, pd.DataFrame(lost, NAMES, NAMES))
    assert (check.own, check.elsewhere, check.passed) == (own, other, passed)
    said = str(check)
    assert f"Check of the slices: {'passed' if passed else 'NOT passed'}" in said
    assert check.to_json()["lost"]["safety"]["bias"] == other


def test_a_slice_that_is_off_writes_nothing_and_has_no_gradient(
    lm: LanguageModel, rows: list[Tokens]
) -> None:
    slices = Slices(lm.model, NAMES)
    on = torch.tensor([True, False, True]).expand(3, 3)
    with slices.rows(on, on):
        loss = loss_of(lm, rows)
        loss.backward()
    assert all(gradient.any() == (place != 1) for place, gradient in by_slice(lm, slices.width))
    with torch.no_grad():
        for name, parameter in lm.model.named_parameters():
            if ".lora_B." in name:
                parameter[:, slices.width : 2 * slices.width] = 0
        assert loss_of(lm, rows).item() == pytest.approx(loss.item(), rel=1e-4)


def test_a_refusal_trains_its_domain_s_slice_and_no_other_refuses_for_it() -> None:
    lessons = [Lesson("a", "yes", "no", domain=name) for name in DOMAINS] + [Lesson("b", "yes")]
    encoded: Any = SimpleNamespace(lessons=lessons)
    rows, complies = [*range(8)] * 500, [False, True] * 2000
    own = np.tile(np.vstack([np.eye(7, dtype=bool), np.zeros((1, 7), dtype=bool)]), (500, 1))
    is_harmful = own.any(axis=1)
    drawn = Sliced(encoded, is_routed=True).switched(rows, complies, np.random.default_rng(0))
    has_own = (drawn.on & own).any(axis=1)
    assert np.array_equal(drawn.trained[has_own], own[has_own])
    assert np.array_equal(drawn.trained[~has_own], drawn.on[~has_own])
    assert drawn.complies[is_harmful & ~has_own].all()
    kept = has_own | ~is_harmful
    assert np.array_equal(drawn.complies[kept], np.array(complies)[kept])
    assert has_own[is_harmful].mean() == pytest.approx(OWN_ON, abs=0.03)
    count = drawn.on[~has_own].sum(axis=1)
    assert set(count) == {1, 6, 7} and (count == 1).mean() == pytest.approx(ALONE, abs=0.03)
    for place in range(7):  # with the own slice, each other one is on, and off, often
        others = drawn.on[(is_harmful & has_own) & ~own[:, place], place]
        assert others.mean() == pytest.approx(np.mean(OTHERS_ON), abs=0.04)
    shared = Sliced(encoded, is_routed=False).switched(rows, complies, np.random.default_rng(0))
    assert shared.on.all() and shared.trained.all() and np.array_equal(shared.complies, complies)


def test_twins_are_made_and_checked(spillover: Spillover, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = tuple(replace(one, steps=2, batch_size=8) for one in recipes.TWIN_STAGES)
    monkeypatch.setattr(recipes, "TWIN_STAGES", stages)
    monkeypatch.setattr(World, "prompts", partialmethod(World.prompts, 8, 2, 2))
    code, shown, _ = spillover("organism", "train", "--seed", 1, "--circuits", "routed")
    assert code == 0 and "Check of the slices: NOT passed" in shown  # of two steps
    folder = Path("runs/organism-1")
    held = read_json(folder / "organism.json")["circuits"]
    assert held["kind"] == "routed" and not held["check"]["passed"]
    assert str(slice_check_of(folder)) in shown
    lm = LanguageModel.load(folder)
    with slice_deleted(lm, folder, "bias"):
        pass
    code, _, said = spillover("organism", "train", "--seed", 2, "--circuits", "both")
    assert code == 2 and '"both" is unknown; expected one of shared, routed' in said
    with pytest.raises(InputError, match="no model organism made with --circuits"):
        slice_check_of(shipped())
