"""Answers from an OpenAI-compatible server, such as vLLM, in place of a model in memory.

The server renders the chat template and sees the messages as they are; a server that applies the
checkpoint's own decoding settings (vLLM does, unless it is started with
``--generation-config vllm``) samples or penalises where
:func:`unlearning.generation.generate` would not. The server returns no token ids, so a response
that is trained on is tokenized anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from interp.progress import Advance, silent
from interp.store import content_key
from unlearning.generation import Answer, AnswerLog, AskedPrompt, answer_all, each_asked
from unlearning.serving.endpoint import Endpoint

# As many times as many as are on their way together: few wait for the slowest of a batch.
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
    """Answer every prompt at temperature 0; a prompt that stands there twice is asked once.

    Args:
        endpoint: the server and the model's name there.
        prompts: one user message each.
        max_new_tokens: of one answer; ``finished`` is False where this ended it.
        system: message before every prompt.
        progress: called with the number of prompts just done.
        log: as for :func:`unlearning.generation.generate`; its key is :func:`served_key`.

    Raises:
        SpilloverError: what ``endpoint`` raises, or the log's disk is full.
    """
    before = [{"role": "system", "content": system}] if system else []

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

    return answer_all(each_asked(prompts, sampled=False), make, log=log, progress=progress)


def served_key(endpoint: Endpoint, *, max_new_tokens: int, system: str | None = None) -> str:
    """The key of an :class:`AnswerLog` of a server's answers.

    A server does not show its weights: a model that changes behind its name is not noticed.
    """
    return content_key("served", endpoint.model, endpoint.address, max_new_tokens, system)
