"""Positions are the same tokens with padding, in generation, before a response, and in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from interp.activations import Columns, last_prompt_token
from interp.activations.window import Window, from_end, generated, in_prompt
from interp.errors import InputError
from interp.interventions import add
from interp.model import LanguageModel, hidden_of
from tests.patched_models import PROMPTS, last_logits, random_direction
from unlearning.generation import generate

Checkpoints = Callable[[str], Path]


@pytest.mark.parametrize(
    ("columns", "tokens"),
    [
        (None, lambda n, ids: range(len(ids))),
        (in_prompt, lambda n, ids: range(n)),
        (generated, lambda n, ids: range(n, len(ids))),
        (last_prompt_token, lambda n, ids: [n - 1]),
        (from_end(-3, -1), lambda n, ids: [n - 3, n - 1]),
    ],
)
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_generation_is_that_of_a_loop_without_cache_or_padding(
    family: str,
    columns: Columns | None,
    tokens: Callable[[int, list[int]], Sequence[int]],
    checkpoint_of: Checkpoints,
) -> None:
    lm = LanguageModel.load(checkpoint_of(family))
    vector = 4 * random_direction()
    with add(lm, vector, layers=[1], positions=columns):
        found = [answer.ids for answer in generate(lm, PROMPTS, max_new_tokens=6)]

    def by_hand(prompt: str) -> tuple[int, ...]:
        ids = list(lm.chat.encode(prompt).ids)
        length = len(ids)

        def edit(_module: object, _inputs: object, output: object) -> object:
            hidden = hidden_of(output).clone()
            hidden[:, list(tokens(length, ids))] += vector
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = lm.layers[1].register_forward_hook(edit)
        with torch.no_grad():
            for _ in range(6):
                logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits
                ids.append(int(logits[0, -1].argmax()))
        handle.remove()
        return tuple(ids[length:])

    # An answer that ended is shorter than the loop, which does not stop.
    for prompt, ids in zip(PROMPTS, found, strict=True):
        assert ids == by_hand(prompt)[: len(ids)]


def test_padding_and_batches_do_not_matter(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    for columns in (from_end(-2), in_prompt):
        with add(lm, 4 * random_direction(), layers=[1], positions=columns):
            together = last_logits(lm)
            alone = torch.cat([last_logits(lm, [prompt]) for prompt in PROMPTS])
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=2e-5)
        assert (together - last_logits(lm)).abs().max() > 1e-3


def test_a_response_does_not_move_the_end_of_the_prompt(llama: LanguageModel) -> None:
    """As in a readout that appends several tokens: the closing of the chat format ends a prompt."""
    rows = [llama.chat.encode(prompt) for prompt in PROMPTS]
    longer = [llama.chat.encode(prompt, (5, 6, 7)) for prompt in PROMPTS]

    def logits(columns: Columns) -> Tensor:
        with torch.no_grad(), add(llama, 4 * random_direction(), layers=[1], positions=columns):
            return llama.logits(llama.chat.pad(longer), keep=4)

    ends = torch.tensor([[len(row) - 1] for row in rows])
    assert torch.equal(logits(last_prompt_token), logits(lambda window: window.index == ends))
    assert not torch.equal(logits(last_prompt_token), logits(generated))
    with pytest.raises(InputError, match="start at -1"):
        from_end(0)


def test_a_window_counts_a_row_s_own_tokens(llama: LanguageModel) -> None:
    seen: list[Window] = []

    def look(window: Window) -> Tensor:
        seen.append(window)
        return in_prompt(window)

    with add(llama, random_direction(), layers=[0, 1], positions=look):
        generate(llama, PROMPTS[:2], max_new_tokens=3)
    # Once a forward, not once a layer.
    lengths = sorted((len(llama.chat.encode(p)) for p in PROMPTS[:2]), reverse=True)
    assert [window.past for window in seen] == [0, lengths[0], lengths[0] + 1][: len(seen)]
    assert [int(row.max()) + 1 for row in seen[0].index] == lengths
    assert (seen[0].index[1] < 0).sum() == lengths[0] - lengths[1]
    assert seen[1].index.flatten().tolist() == lengths


def test_a_sliding_window_forgets_states_and_not_the_count(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("mistral"))
    length, seen = len(lm.chat.encode(PROMPTS[1] * 8)), []
    assert length > lm.model.config.sliding_window

    def look(window: Window) -> Tensor:
        seen.append((window.past, int(window.index[0, -1])))
        return generated(window)

    with add(lm, random_direction(), layers=[0], positions=look):
        generate(lm, [PROMPTS[1] * 8], max_new_tokens=3)
    assert seen == [(0, length - 1), (length, length), (length + 1, length + 1)][: len(seen)]


def test_rows_that_cannot_be_told_apart_are_refused(llama: LanguageModel) -> None:
    ids = torch.tensor([llama.chat.encode(PROMPTS[0]).ids])
    columns = ids.shape[1]
    with torch.no_grad(), add(llama, random_direction(), layers=[0], positions=in_prompt):
        llama.model(input_ids=ids)
        with pytest.raises(InputError, match="call the model with input_ids"):
            llama.model(inputs_embeds=llama.model.get_input_embeddings()(ids))
        with pytest.raises(InputError, match=rf"of shape \(1, 1, {columns}, {columns}\)"):
            llama.model(input_ids=ids, attention_mask=torch.ones(1, 1, columns, columns))
