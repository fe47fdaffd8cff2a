"""Answers from an OpenAI-compatible server, such as vLLM, in place of a model in memory.

The server receives the unchanged messages and renders the chat template. A server may apply the
checkpoint's decoding settings (vLLM does, unless started with ``--generation-config vllm``). Then
it samples or penalises, unlike :func:`unlearning.generation.generate`. The server returns no token
ids, so training tokenizes the response again.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace

from interp.progress import Advance, silent
from interp.store import content_key
from unlearning.generation import Answer, AnswerLog, AskedPrompt, answer_all, each_asked
from unlearning.serving.endpoint import Endpoint

# Batch size as a multiple of concurrency, so few requests wait for the slowest of a batch.
ROUNDS = 8


def answers_of(
    endpoint: Endpoint,
    prompts: Sequence[str],
    *,
    max_new_tokens: int,
    system: str | None = None,
    progress: Advance = silent,
    log: AnswerLog | None = None,
) -> list[Answer]:
    """Answer every prompt at temperature 0; repeated prompts are sent once.

    Args:
        endpoint: the server and the model's name there.
        prompts: one user message each.
        max_new_tokens: limit for one answer; ``finished`` is False if the limit ended it.
        system: message before every prompt.
        progress: called with the number of prompts just done.
        log: as for :func:`unlearning.generation.generate`; its key is :func:`served_key`. Until all
            have answers, a folder next to it keeps each one that comes.

    Raises:
        SpilloverError: what ``endpoint`` raises, or the log's disk is full.
    """
    before = [{"role": "system", "content": system}] if system else []
    kept = None if log is None else log.path.with_name(f"{log.path.stem}-served")
    if kept and endpoint.cache is None:
        endpoint = replace(endpoint, cache=kept)

    def make(missing: list[AskedPrompt]) -> Iterator[dict[AskedPrompt, Answer]]:
        size = ROUNDS * endpoint.concurrency
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            conversations = [[*before, {"role": "user", "content": one.prompt}] for one in part]
            completions = endpoint.complete(conversations, max_tokens=max_new_tokens)
            yield {
                one: Answer((), said.text.strip(), said.finished)
                for one, said in zip(part, completions, strict=True)
            }

    found = answer_all(each_asked(prompts, sampled=False), make, log=log, progress=progress)
    if kept:
        shutil.rmtree(kept, ignore_errors=True)
    return found


def served_key(endpoint: Endpoint, *, max_new_tokens: int, system: str | None = None) -> str:
    """The key of an :class:`AnswerLog` of a server's answers.

    A server does not show its weights, so the key does not change if the model behind a name does.
    """
    return content_key(
        "answers", "served", endpoint.model, endpoint.address, max_new_tokens, system
    )
