"""A server that speaks OpenAI's chat completions, a provider's or one's own (vLLM and others).

Many conversations are asked at a time, but never more than ``concurrency``; what was answered is on
disk before it is returned and is not asked again; passing failures are retried with exponential
back-off, or after as long as the server says; every other failure is one clear error at once.

Needs the extra ``judge``. The key is ``OPENAI_API_KEY``, the address ``url``, else
``OPENAI_BASE_URL``, else OpenAI's own.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from unlearning.serving.completions import Completion, CompletionCache, request_key
from unlearning.serving.concurrently import concurrently

if TYPE_CHECKING:
    import openai

__all__ = ["Completion", "Endpoint"]

#: Messages of one conversation: ``{"role": "user", "content": "..."}`` and so on.
Conversation = Sequence[Mapping[str, str]]
OPENAI = "https://api.openai.com/v1"


@dataclass(frozen=True)
class Endpoint:
    """One model at one address.

    Attributes:
        model: as the server calls it.
        url: base address, mostly ending in ``/v1``.
        cache: folder of what was answered; nothing is kept where it is ``None``.
        concurrency: requests on their way at a time.
        attempts: of one request, before it is given up.
        first_wait: seconds before the second attempt; doubled before every further one.
        timeout: seconds until a request counts as lost.

    Raises:
        InputError: the address is none, or the ``openai`` package is not installed.
    """

    model: str
    url: str | None = None
    cache: str | Path | None = None
    concurrency: int = 8
    attempts: int = 7
    first_wait: float = 1.0
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if not self.model:
            raise InputError("no model named; expected MODEL or MODEL@URL")
        if not self.address.startswith(("http://", "https://")):
            raise InputError(f"{self.address} is no address; expected one such as {OPENAI}")
        if find_spec("openai") is None:
            raise InputError("servers are asked by openai; pip install 'spillover[judge]'")

    @property
    def address(self) -> str:
        """Base address of the server, without a slash at its end."""
        return (self.url or os.environ.get("OPENAI_BASE_URL") or OPENAI).rstrip("/")

    def complete(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        progress: Callable[[int], None] | None = None,
    ) -> list[Completion]:
        """The model's next message in each conversation, in order.

        Conversations that are the same are asked once and share one answer, whatever the
        temperature. A model that takes no ``max_tokens`` is sent ``max_completion_tokens``, and one
        that takes no ``temperature`` is sent none.

        Args:
            max_tokens: of one answer, thoughts included where the model thinks.
            progress: called in this thread with the number of conversations just done.

        Raises:
            InputError: no or a wrong key, an unknown model, nobody there, or no such API.
            SpilloverError: passing failures that did not pass; what was answered is kept.
        """
        requests = [self._request(c, max_tokens, temperature) for c in conversations]
        keys = [request_key(self.address, request) for request in requests]
        wanted = Counter(keys)
        done = {key: kept for key in wanted if (kept := self._kept(key)) is not None}
        missing = {k: r for k, r in zip(keys, requests, strict=True) if k not in done}
        advance = progress or (lambda _count: None)
        if done:
            advance(sum(wanted[key] for key in done))
        for key, completion in self._ask_all(missing):
            done[key] = completion
            advance(wanted[key])
        return [done[key] for key in keys]

    def to_ask(
        self, conversations: Sequence[Conversation], *, max_tokens: int, temperature: float = 0.0
    ) -> list[int]:
        """Places of the conversations that :meth:`complete` would have to ask the server."""
        places: dict[str, int] = {}
        for place, conversation in enumerate(conversations):
            request = self._request(conversation, max_tokens, temperature)
            places.setdefault(request_key(self.address, request), place)
        store = self._store
        return [p for key, p in places.items() if store is None or key not in store]

    @property
    def _store(self) -> CompletionCache | None:
        return None if self.cache is None else CompletionCache(Path(self.cache))

    def _kept(self, key: str) -> Completion | None:
        return None if self._store is None else self._store.get(key)

    def _request(
        self, conversation: Conversation, max_tokens: int, temperature: float
    ) -> dict[str, Any]:
        messages = [{name: _whole(text) for name, text in m.items()} for m in conversation]
        return {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": temperature,
        }

    def _ask_all(self, requests: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, Completion]]:
        if not requests:
            return
        store = self._store
        with self._client() as client:
            connection = _Connection(self, client)

            def ask_and_keep(key: str, stop: threading.Event) -> Completion:
                completion = connection.ask(requests[key], stop)
                if store is not None:
                    store.put(key, completion)
                return completion

            yield from concurrently(ask_and_keep, list(requests), self.concurrency)

    def _client(self) -> openai.OpenAI:
        import openai

        key = os.environ.get("OPENAI_API_KEY")
        if not key and self.address == OPENAI:
            raise InputError(
                f"{OPENAI} wants a key; set OPENAI_API_KEY, or name another server (MODEL@URL)"
            )
        # Retries are ours: the client's own know neither a longest wait nor a user who gave up.
        return openai.OpenAI(
            api_key=key or "none", base_url=self.address, timeout=self.timeout, max_retries=0
        )


@dataclass
class _Connection:
    """What is learned of a server while it is asked: that it is there, and what it will not take.

    Threads share it; each of its facts only ever goes from unknown to known.
    """

    endpoint: Endpoint
    client: openai.OpenAI
    reached: bool = False
    not_taken: set[str] = field(default_factory=set)

    def ask(self, request: Mapping[str, Any], stop: threading.Event) -> Completion:
        """One request, until it is answered or fails for good."""
        import openai

        from unlearning.serving import endpoint_errors as errors

        where = self.endpoint
        attempt = 1
        while True:
            sent = self._in_dialect(request)
            try:
                answer: Any = self.client.chat.completions.create(**sent)
            except openai.APIError as error:
                self.reached = self.reached or isinstance(error, openai.APIStatusError)
                if errors.is_filtered(error):
                    return Completion("", False, 0, 0)
                if self._learns(error, sent):
                    continue
                passing = errors.passes(error, reached=self.reached)
                if not passing or attempt == where.attempts or stop.is_set():
                    raise errors.explained(error, where.model, where.address, attempt) from error
                # Spread out, or all that failed together would come back together.
                backed_off = where.first_wait * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)
                stop.wait(max(errors.asked_pause(error), min(backed_off, errors.LONGEST_WAIT)))
                attempt += 1
            except ValueError as error:  # a body that calls itself JSON and is not
                raise errors.not_the_protocol(where.address, error) from error
            else:
                self.reached = True
                return _completion(answer, where.address)

    def _learns(self, error: openai.APIError, sent: Mapping[str, Any]) -> bool:
        """Whether the error names a parameter that can be put otherwise; remembered if so."""
        if getattr(error, "status_code", None) not in (400, 422):
            return False
        for name in ("max_tokens", "temperature"):
            if name in sent and (error.param == name or name in error.message):
                self.not_taken.add(name)
                return True
        return False

    def _in_dialect(self, request: Mapping[str, Any]) -> dict[str, Any]:
        sent = dict(request)
        if "max_tokens" in self.not_taken:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        if "temperature" in self.not_taken:
            del sent["temperature"]
        return sent


def _completion(answer: Any, address: str) -> Completion:
    from unlearning.serving.endpoint_errors import not_the_protocol

    choice = next(iter(getattr(answer, "choices", None) or ()), None)
    message = getattr(choice, "message", None)
    if choice is None or message is None:
        raise not_the_protocol(address, answer)
    text = message.content or getattr(message, "refusal", None) or ""
    if not isinstance(text, str):
        raise not_the_protocol(address, answer)
    usage = getattr(answer, "usage", None)
    return Completion(
        text,
        choice.finish_reason == "stop",
        int(getattr(usage, "prompt_tokens", None) or 0),
        int(getattr(usage, "completion_tokens", None) or 0),
    )


def _whole(text: str) -> str:
    """``text`` without halves of surrogate pairs, which no request can carry."""
    return text.encode("utf-8", "replace").decode("utf-8")
