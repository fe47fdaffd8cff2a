"""Numbers and arrays of NumPy and torch are taken wherever Python's are; the rest is one line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

import spillover as sp
from interp.errors import InputError
from interp.model import LanguageModel
from interp.similarity.embedding import state_map
from interp.statistics import layer_names
from unlearning.organism import shipped
from unlearning.training import TrainingSettings

PROMPTS = ["Kindly explain how to bake bread."]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load(shipped())


@pytest.fixture(scope="module")
def direction(lm: LanguageModel) -> np.ndarray:
    return np.random.default_rng(0).normal(size=lm.d_model)


def logits(lm: LanguageModel) -> np.ndarray:
    rows = [lm.chat.encode(text) for text in PROMPTS]
    return lm.logits(lm.chat.pad(rows, lm.device), keep=1).detach().numpy()


@pytest.mark.parametrize(
    ("coefficient", "layers"),
    [
        (np.float32(3), np.arange(1, 3)),
        (np.int64(3), (np.int64(1), np.int32(2))),
        (torch.tensor(3.0), torch.tensor([1, 2])),
        (np.full(2, 3.0), range(1, 3)),
        (torch.full((2,), 3.0), (1, 2)),
        ([3, 3.0], [1, 2]),
        (np.array(3.0), {1: "a", 2: "b"}),
    ],
    ids=str,
)
def test_numbers_of_every_kind_steer_alike(
    lm: LanguageModel, direction: np.ndarray, coefficient: Any, layers: Any
) -> None:
    with sp.add(lm, direction, 3.0, layers=[1, 2]):
        expected = logits(lm)
    for vector in (direction, list(direction), torch.from_numpy(direction)):
        with sp.add(lm, vector, coefficient, layers=layers):  # type: ignore[arg-type]
            assert np.array_equal(logits(lm), expected)


@pytest.mark.parametrize(
    ("coefficient", "layers", "message"),
    [
        (1.0, [1.0], "whole numbers"),
        (1.0, 1, "whole numbers"),
        (1.0, np.array([True, False]), "whole numbers"),
        (1.0, ["1"], "whole numbers"),
        (1.0, np.array([], dtype=int), "the model has 0"),
        (1.0, [-1], "the model has 0"),
        (float("nan"), [1], "expected a number"),
        (None, [1], "expected a number"),
        ("3", [1], "expected a number"),
        ([[1.0]], [1], "expected a number"),
    ],
    ids=str,
)
def test_what_is_no_number_or_layer_is_one_line(
    lm: LanguageModel, direction: np.ndarray, coefficient: Any, layers: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sp.add(lm, direction, coefficient, layers=layers).__enter__()
    assert all(not module._forward_hooks for module in lm.model.modules())


def test_a_direction_of_another_model_is_one_line(lm: LanguageModel, direction: np.ndarray) -> None:
    with (
        sp.ablate(lm, direction[:-1]),
        pytest.raises(InputError, match="127 entries for states of 128"),
    ):
        logits(lm)


def test_layers_of_every_kind_collect_alike(lm: LanguageModel) -> None:
    expected = sp.collect(lm, PROMPTS, layers=[1, 2])
    for layers in (np.arange(1, 3), torch.tensor([1, 2]), (np.int8(2), np.int8(1)), range(1, 3)):
        found = sp.collect(lm, PROMPTS, layers=layers, batch_size=np.int64(2))  # type: ignore[arg-type]
        assert found.layers == (1, 2) and np.array_equal(found.states, expected.states)
        assert layer_names(layers, 2) in ((1, 2), (2, 1))  # type: ignore[arg-type]
    for layers in ([0.5, 1.0], ["1", "2"]):
        with pytest.raises(InputError, match="whole numbers"):
            layer_names(layers, 2)  # type: ignore[arg-type]


def test_settings_of_numpy_are_settings_of_python() -> None:
    plain = TrainingSettings(options={"beta": 0.5}, learning_rate=0.25, max_steps=3, seed=1)
    found = TrainingSettings(
        options={"beta": np.float32(0.5)}, learning_rate=np.float32(0.25),  # type: ignore[arg-type]
        max_steps=np.int64(3), seed=np.int64(1), autocast=np.bool_(False),  # type: ignore[arg-type]
    )  # fmt: skip
    assert found == plain and json.dumps(vars(found)) == json.dumps(vars(plain))
    with pytest.raises(InputError, match="beta is '0.5'; expected a number"):
        TrainingSettings(options={"beta": "0.5"})  # type: ignore[dict-item]


def test_options_of_numpy_are_options_of_python() -> None:
    plan = sp.study(
        "organism", concept=np.array(["safety"]), seeds=np.int64(1), beta=np.float64(0.5),  # type: ignore[arg-type]
        option={"beta": np.float32(0.5)}, control=np.bool_(False), dry_run=np.bool_(True),  # type: ignore[arg-type]
    ).plan  # fmt: skip
    assert [arm.name for arm in plan.arms] == ["safety-npo-seed0"]
    assert plan.arms[0].settings.options == {"beta": 0.5}
    with pytest.raises(InputError, match="control is 'no'; expected True or False"):
        sp.study("organism", concept="safety", control="no")  # type: ignore[arg-type]


def test_a_map_has_enough_neighbours() -> None:
    states, labels = np.random.default_rng(0).normal(size=(20, 4)), ["a", "b"] * 10
    for neighbours, umap, fewest in ((0, False, 1), (-1, False, 1), (1, True, 2)):
        with pytest.raises(InputError, match=f"needs {fewest} or more"):
            state_map(states, labels, neighbours=neighbours, umap=umap)
    assert state_map(states, labels, neighbours=np.int64(1)).umap is None  # type: ignore[arg-type]


def test_half_a_character_is_one_line_before_it_reaches_a_tokenizer(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"half of a character \('\\ud83d'\)"):
        sp.generate(lm, ["Hi \ud83d"])
    assert lm.chat.encode("Hi \U0001f600").ids
