"""What a model writes after given tokens, for prompts that no chat format of ours renders."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.model import LanguageModel, Tokens, map_in_batches, require_room, undisturbed
from interp.progress import Advance, silent
from unlearning.generation.responses import AS_IT_IS, require_new_tokens, stop_tokens


@torch.no_grad()
def continuations(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    *,
    max_new_tokens: int,
    batch_size: int = 8,
    progress: Advance = silent,
) -> list[str]:
    """The greedy continuation of each row as text, without special tokens.

    Args:
        lm: the model; the decoding settings of its checkpoint are not used.
        rows: whole prompts, as the model reads them.
        max_new_tokens: of one continuation.
        batch_size: rows in one forward; fewer after a batch did not fit into memory.
        progress: called with the number of rows just done.

    Raises:
        InputError: a row is longer than the model's context, or ``max_new_tokens`` is below 1.
        MachineError: a single row does not fit into memory.
    """
    require_new_tokens(max_new_tokens)
    require_room(lm.model, lm.tokenizer, rows, new_tokens=max_new_tokens)
    stops = sorted(stop_tokens(lm))

    def write(chosen: list[int]) -> list[str]:
        batch = lm.chat.pad([rows[i] for i in chosen], lm.device)
        # PreTrainedModel inherits generate from a mixin that the stubs do not see.
        output = lm.model.generate(  # type: ignore[operator]
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            max_new_tokens=max_new_tokens,
            eos_token_id=stops,
            pad_token_id=stops[0],
            use_cache=lm.checked.cache,
            **AS_IT_IS,
        )
        said = output[:, batch.input_ids.shape[1] :].tolist()
        return list(lm.tokenizer.batch_decode(said, skip_special_tokens=True))

    with undisturbed(lm.model):
        return map_in_batches(write, rows, batch_size, progress, lm.together(rows, decoding=True))
