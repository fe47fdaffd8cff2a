"""Positions are spans by name; what is taken is what stands there, padding or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.activations import Positions, collect, post_instruction
from interp.activations.positions import every_token, last_token, mean_over
from interp.errors import InputError
from interp.model import LanguageModel, Tokens

Checkpoints = Callable[[str], Path]

PROMPTS = (
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people. " * 4,
    "Which tools does a carpenter need to repair a broken chair?",
    "Explain the meaning of consent.",
)


def hidden_states(lm: LanguageModel, row: Tokens, layer: int) -> np.ndarray:
    """Of one prompt without padding, by Hugging Face."""
    with torch.no_grad():
        ids = torch.tensor([row.ids])
        found = lm.model(input_ids=ids, output_hidden_states=True).hidden_states[layer + 1][0]
    return found.numpy()


@pytest.mark.parametrize(
    "positions",
    [
        last_token,
        post_instruction,
        mean_over("instruction"),
        mean_over("system", "instruction", "post_instruction"),
        every_token("instruction"),
    ],
)
def test_positions_are_the_tokens_of_the_span(
    checkpoint_of: Checkpoints, positions: Positions
) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
    found = collect(lm, PROMPTS, positions=positions, batch_size=3)
    for i, row in enumerate(rows):
        wanted = positions(row)
        states = found["residual_out"][i, 1]
        for j, place in enumerate(reversed(wanted), start=1):
            mean = hidden_states(lm, row, 1)[place].astype(np.float64).mean(axis=0)
            assert states[-j] == pytest.approx(mean, abs=2e-5)
            assert found.token_ids[i, -j] == row.ids[place.stop - 1]
        # Aligned at their ends: what a prompt lacks is missing in front.
        assert np.isnan(states[: len(states) - len(wanted)]).all()
        assert (found.token_ids[i, : len(states) - len(wanted)] == -1).all()


def test_post_instruction_holds_the_response_prefix_and_ends_with_the_last_token(
    checkpoint: Path,
) -> None:
    lm = LanguageModel.load(checkpoint, response_prefix="Well")
    found = collect(lm, PROMPTS, positions=post_instruction)["residual_out"]
    assert found[:, :, -1] == pytest.approx(collect(lm, PROMPTS).states)
    assert found.shape[2] >= 2


def test_spans_of_one_s_own_and_of_the_response(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    row = lm.chat.encode(PROMPTS[1], "I cannot.")
    row = replace(row, spans={**row.spans, "bread": slice(30, 32)})
    named = collect(lm, [row], positions=mean_over("bread", "response"))["residual_out"]
    states = hidden_states(lm, row, 2)
    assert named[0, 2, 0] == pytest.approx(states[30:32].mean(axis=0), abs=2e-5)
    response = states[row.spans["response"]]
    assert named[0, 2, 1] == pytest.approx(response.mean(axis=0), abs=2e-5)
    by_function = collect(lm, [row], positions=lambda _: [slice(30, 32)])["residual_out"]
    assert by_function[0, :, 0] == pytest.approx(named[0, :, 0], abs=1e-6)


def test_padding_of_any_kind_never_enters_a_mean(checkpoint_of: Checkpoints) -> None:
    """Not even where what stands in the padding is not finite."""
    lm = LanguageModel.load(checkpoint_of("gpt2"))
    positions = mean_over("instruction")
    wanted = collect(lm, PROMPTS[:1], positions=positions).states
    lm.layers[0].register_forward_hook(
        lambda _m, _i, out: torch.where(torch.arange(out.shape[1])[:, None] < 1, torch.nan, out)
    )
    row, longer = lm.chat.encode(PROMPTS[0]), lm.chat.encode(PROMPTS[1])
    assert len(longer) > len(row)
    found = collect(lm, [row, longer], positions=positions, layers=[0])["residual_out"]
    assert found[0, 0, 0] == pytest.approx(wanted[0, 0], abs=2e-5)


def test_positions_that_are_not_there_are_refused(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    with pytest.raises(InputError, match="no span verb; the prompt has system, instruction"):
        collect(lm, PROMPTS, positions=mean_over("verb"))
    for empty in (slice(3, 3), slice(-2, 3), slice(0, 999)):
        with pytest.raises(InputError, match="holds none of the .* tokens"):
            collect(lm, PROMPTS, positions=lambda _, empty=empty: [empty])
    with pytest.raises(InputError, match="no prompt has a position"):
        collect(lm, PROMPTS, positions=lambda _: [])
