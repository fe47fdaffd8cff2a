"""How surprising a response is to a model: nats per token, given the prompt.

exp of the mean is the response's perplexity. The end of the turn is never counted: a recorded
answer does not say whether the model ended it or a limit did, and one cut short is not for that
reason a strange one. So a response has the same value as text and as the ids that spell it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float

from interp.activations import batches_by_length
from interp.chat import Tokens
from interp.model import LanguageModel
from unlearning.generation import stop_tokens
from unlearning.likelihood import response_width, token_log_probs

Response = str | Sequence[int]

# Logits held at a time, in elements: 1 GB in bfloat16. At a vocabulary of 150,000 a batch of 32
# answers of 256 tokens would need 2.5 GB.
LARGEST_LOGITS = 2**29


def response_nll(
    lm: LanguageModel,
    rows: Sequence[tuple[str, Response]],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Float[np.ndarray, " row"]:
    """Mean nats per response token given the prompt, -(1/T) log p(y|x), in float64.

    Args:
        lm: the model that is surprised; its chat format renders the prompts.
        rows: (prompt, response); a response is text or the token ids that a model generated.
        batch_size: rows in one forward at most; fewer where the logits would not fit.
        progress: called with the number of rows just done.

    Returns:
        One value a row; NaN where the response is empty.
    """
    found = response_token_nll(lm, rows, batch_size=batch_size, progress=progress)
    return np.array([tokens.mean() if tokens.size else np.nan for tokens in found], np.float64)


@torch.no_grad()
def response_token_nll(
    lm: LanguageModel,
    rows: Sequence[tuple[str, Response]],
    *,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> list[Float[np.ndarray, " token"]]:
    """-log p(y_t | x, y_<t) in nats of every token of every response, in float64.

    Arguments as for :func:`response_nll`; an empty response has an empty array.
    """
    encoded = [_encode(lm, prompt, response) for prompt, response in rows]
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    spoken = [i for i, tokens in enumerate(encoded) if _length(tokens)]
    training = lm.model.training
    lm.model.eval()
    if progress is not None and len(spoken) < len(rows):
        progress(len(rows) - len(spoken))
    for chosen in _batches([encoded[i] for i in spoken], batch_size, _vocabulary(lm)):
        places = [spoken[i] for i in chosen]
        batch = lm.chat.pad([encoded[i] for i in places], lm.device)
        kept = response_width(batch.response_mask)
        # The token at column t is predicted at column t - 1.
        logits = lm.logits(batch, keep=kept + 1)[:, :-1]
        mask = batch.response_mask[:, -kept:]
        log_probs = token_log_probs(logits, batch.input_ids[:, -kept:], mask)
        for place, values, where in zip(places, log_probs, mask, strict=True):
            found[place] = -values[where].double().cpu().numpy()
        if progress is not None:
            progress(len(places))
    lm.model.train(training)
    return found


def _encode(lm: LanguageModel, prompt: str, response: Response) -> Tokens:
    """The row without the tokens that close its response, if they do."""
    blank = isinstance(response, str) and not response.strip()
    tokens = lm.chat.encode(prompt, () if blank else response)
    start, end = tokens.spans["response"].start, lm.chat.end_of_turn
    said = tokens.ids[start:]
    if end and said[-len(end) :] == end:
        said = said[: -len(end)]
    elif said and said[-1] in stop_tokens(lm):
        said = said[:-1]
    ids = tokens.ids[:start] + said
    return replace(tokens, ids=ids, spans={**tokens.spans, "response": slice(start, len(ids))})


def _length(tokens: Tokens) -> int:
    span = tokens.spans["response"]
    return int(span.stop - span.start)


def _vocabulary(lm: LanguageModel) -> int:
    return int(lm.model.config.get_text_config(decoder=True).vocab_size)


def _batches(rows: Sequence[Tokens], batch_size: int, vocabulary: int) -> Iterator[list[int]]:
    """Row numbers in batches of like length, of which each one's logits can be held."""
    for chosen in batches_by_length(rows, batch_size):
        longest = max(_length(rows[i]) for i in chosen) + 1
        fitting = max(1, LARGEST_LOGITS // (longest * vocabulary))
        for start in range(0, len(chosen), fitting):
            yield chosen[start : start + fitting]
