"""Negative log-likelihood of a response given the prompt, in nats per token.

exp of the mean is the response's perplexity. The end of the turn is never counted, because a
recorded answer does not say whether the model or a length limit ended it. So a response has the
same value as text and as token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from interp.model import LanguageModel, Tokens
from interp.progress import Advance, silent
from unlearning.generation import Answer, stop_tokens
from unlearning.losses import reference_log_probs

Response = str | Sequence[int]


def response_nll(
    lm: LanguageModel,
    rows: Sequence[tuple[str, Response]],
    *,
    batch_size: int = 32,
    progress: Advance = silent,
) -> Float[np.ndarray, " row"]:
    """Mean nats per response token given the prompt, -(1/T) log p(y|x), in float64.

    Args:
        lm: the model that gives the likelihood; its chat format renders the prompts.
        rows: (prompt, response); a response is text or the token ids that a model generated.
        batch_size: rows in one forward at most; fewer where the logits would take too much memory,
            or after a batch did not fit into memory.
        progress: called with the number of rows just done.

    Returns:
        One value a row; NaN where the response is empty.

    Raises:
        MachineError: a single row does not fit into memory.
    """
    found = response_token_nll(lm, rows, batch_size=batch_size, progress=progress)
    return np.array([tokens.mean() if tokens.size else np.nan for tokens in found], np.float64)


def response_token_nll(
    lm: LanguageModel,
    rows: Sequence[tuple[str, Response]],
    *,
    batch_size: int = 32,
    progress: Advance = silent,
) -> list[Float[np.ndarray, " token"]]:
    """-log p(y_t | x, y_<t) in nats of every token of every response, in float64.

    Arguments as for :func:`response_nll`; an empty response has an empty array.
    """
    encoded = [_encode(lm, prompt, response) for prompt, response in rows]
    lengths = [len(tokens.ids[tokens.spans["response"]]) for tokens in encoded]
    spoken = [tokens for tokens, length in zip(encoded, lengths, strict=True) if length]
    if len(spoken) < len(rows):
        progress(len(rows) - len(spoken))
    found = iter(reference_log_probs(lm, spoken, batch_size=batch_size, progress=progress))
    return [-next(found).double().numpy() if length else np.empty(0) for length in lengths]


def own_token_nll(
    lm: LanguageModel,
    prompts: Sequence[str],
    answers: Sequence[Answer],
    *,
    batch_size: int = 32,
    progress: Advance = silent,
) -> list[Float[np.ndarray, " token"]]:
    """:func:`response_token_nll` of a model's own answers, as their generation recorded it.

    Only answers without a record are read again.

    Args:
        lm: the model that generated the answers.
        prompts: one for each answer.
        answers, batch_size, progress: as for :func:`response_token_nll`.
    """
    unknown = [i for i, answer in enumerate(answers) if answer.nll is None]
    progress(len(answers) - len(unknown))
    rows: list[tuple[str, Response]] = [
        (prompts[i], answers[i].ids or answers[i].text) for i in unknown
    ]
    read = iter(response_token_nll(lm, rows, batch_size=batch_size, progress=progress))
    return [
        next(read)
        if answer.nll is None
        else np.array(answer.nll[: len(_spoken(lm, answer.ids))], np.float64)
        for answer in answers
    ]


def _encode(lm: LanguageModel, prompt: str, response: Response) -> Tokens:
    """The row without the tokens that close its response, if it has them."""
    if isinstance(response, str):
        blank = not response.strip()
        return lm.chat.encode(prompt, () if blank else response, closed=False)
    tokens = lm.chat.encode(prompt, response)
    start = tokens.spans["response"].start
    ids = tokens.ids[:start] + _spoken(lm, tokens.ids[start:])
    return replace(tokens, ids=ids, spans={**tokens.spans, "response": slice(start, len(ids))})


def _spoken(lm: LanguageModel, ids: Sequence[int]) -> tuple[int, ...]:
    """A response without the tokens that close it, if it has them."""
    said, end = tuple(ids), tuple(lm.chat.end_of_turn)
    if end and said[-len(end) :] == end:
        return said[: -len(end)]
    return said[:-1] if said and said[-1] in stop_tokens(lm) else said
