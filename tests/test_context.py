"""Prompts that do not fit into the model's context are named before any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from interp.activations import collect
from interp.errors import InputError
from interp.model import LanguageModel
from interp.model.context import context_length
from unlearning.generation import generate

Checkpoints = Callable[[str], Path]


def config_of(**fields: Any) -> Any:
    return SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(**fields))


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({"max_position_embeddings": 100}, 100),
        ({"max_seq_len": 100}, 100),
        ({"hidden_size": 100}, None),
        ({"max_position_embeddings": 100, "rope_scaling": None}, 100),
        ({"max_position_embeddings": 100, "rope_parameters": {"rope_type": "default"}}, 100),
        ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "yarn", "factor": 4}}, 400),
        (
            {
                "max_position_embeddings": 400,
                "rope_parameters": {
                    "rope_type": "llama3",
                    "factor": 4.0,
                    "original_max_position_embeddings": 100,
                },
            },
            400,
        ),
    ],
)
def test_the_limit_is_the_configuration_s(fields: dict[str, Any], limit: int | None) -> None:
    assert context_length(config_of(**fields)) == limit


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_long_prompts_are_named_before_any_work(family: str, checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of(family))
    lm.model.config.max_position_embeddings = limit = 512
    long = "Wherefore art thou? " * 300
    prompts = ["Why?", long, "How?"]
    with pytest.raises(InputError, match=rf"1 of 3 prompts .* context of {limit} .*Wherefore art"):
        generate(lm, prompts, max_new_tokens=2)
    with pytest.raises(InputError, match="1 of 3 prompts do not fit"):
        collect(lm, prompts)
    with pytest.raises(InputError, match="1 of 1 prompts do not fit"):
        lm.logits(lm.chat.pad([lm.chat.encode(long)]), keep=1)


def test_new_tokens_without_room_are_refused_or_reported(checkpoint_of: Checkpoints) -> None:
    learned = LanguageModel.load(checkpoint_of("gpt2"))
    with pytest.raises(InputError, match=r"with 600 new tokens .*--max-new-tokens \d+ at most"):
        generate(learned, ["Why?"], max_new_tokens=600)
    rotary = LanguageModel.load(checkpoint_of("qwen2"))
    rotary.model.config.max_position_embeddings = 32
    with pytest.warns(UserWarning, match="exceeds the model's context of 32 tokens"):
        generate(rotary, ["Why?"], max_new_tokens=30)
