"""The model's own answers, as the token ids that it generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from interp.activations import batches_by_length
from interp.model import LanguageModel


@dataclass(frozen=True)
class Answer:
    """One generated response: its ids (end-of-turn included, where reached) and its text."""

    ids: tuple[int, ...]
    text: str
    finished: bool


@torch.no_grad()
def generate(
    lm: LanguageModel,
    prompts: Sequence[str],
    *,
    max_new_tokens: int = 48,
    batch_size: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Answer every prompt; greedy at temperature 0, else sampled from the full distribution.

    Batches are made of prompts of like length. ``finished`` is False where ``max_new_tokens``
    ended the answer.
    """
    rows = [lm.chat.encode(prompt) for prompt in prompts]
    stops = stop_tokens(lm)
    options: dict[str, object] = {"do_sample": False}
    if temperature > 0:
        options = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    answers: list[Answer | None] = [None] * len(rows)
    devices = [lm.device] if lm.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        for chosen in batches_by_length(rows, batch_size):
            batch = lm.chat.pad([rows[i] for i in chosen], lm.device)
            # PreTrainedModel inherits generate from a mixin that the stubs do not see.
            output = lm.model.generate(  # type: ignore[operator]
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                max_new_tokens=max_new_tokens,
                eos_token_id=sorted(stops),
                pad_token_id=min(stops),
                **options,
            )
            for i, generated in zip(chosen, output[:, batch.input_ids.shape[1] :], strict=True):
                answers[i] = _cut(lm, generated.tolist(), stops)
            if progress is not None:
                progress(len(chosen))
    return [answer for answer in answers if answer is not None]


def stop_tokens(lm: LanguageModel) -> frozenset[int]:
    """Ids that end an answer: the generation config's, the tokenizer's, the template's."""
    configured = getattr(lm.model.generation_config, "eos_token_id", None)
    ids = {configured} if isinstance(configured, int) else set(configured or ())
    ids.add(lm.tokenizer.eos_token_id)
    if len(lm.chat.end_of_turn) == 1:
        ids.update(lm.chat.end_of_turn)
    return frozenset(i for i in ids if i is not None)


def _cut(lm: LanguageModel, ids: list[int], stops: frozenset[int]) -> Answer:
    end = next((i for i, token in enumerate(ids) if token in stops), None)
    kept = tuple(ids if end is None else ids[: end + 1])
    text = lm.tokenizer.decode(list(kept), skip_special_tokens=True)
    return Answer(kept, str(text).strip(), end is not None)
