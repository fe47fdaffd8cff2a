"""Client for a server with OpenAI's chat completions API: a provider, vLLM and others.

A model whose prompt is one text, not a conversation, is asked by the older completions API.

- At most ``concurrency`` requests run at a time.
- Each answer is on disk before it is returned, and is not requested again.
- The ``openai`` client retries temporary failures with exponential back-off, or after the time that
  the server asks for. Every other failure raises one clear error at once.

A cached answer is one small file, written atomically under a hash of the whole request. Processes
may share a folder, and a killed run keeps every answer that it received. Requests are not cached.
The cache does not notice if a server changes the model behind a name: delete the folder to ask
again.

Needs the extra ``judge``. The key is ``OPENAI_API_KEY``, the address ``url``, else
``OPENAI_BASE_URL``, else OpenAI's own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.progress import Advance, silent
from interp.store import read_json, user_cache, write_json

if TYPE_CHECKING:
    import openai


#: Messages, ``{"role": "user", "content": "..."}`` and so on; or a whole prompt.
Conversation = Sequence[Mapping[str, str]] | str
OPENAI = "https://api.openai.com/v1"
# What servers say of an answer that the model ended; "length" is said of one that was cut off.
ENDED = ("stop", "eos_token", "stop_sequence")


@dataclass(frozen=True)
class Completion:
    """One answer of a server.

    Attributes:
        text: empty where the server gave none.
        finished: True if the model ended it; False if a limit or a filter did.
        prompt_tokens, completion_tokens: counts of the server; 0 if it gives none.
    """

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Endpoint:
    """One model at one address.

    Attributes:
        model: its name on the server.
        url: base address, usually ending in ``/v1``.
        cache: folder of cached answers; ``None`` disables the cache.
        concurrency: maximum number of simultaneous requests.
        attempts: maximum number of attempts for one request.
        timeout: seconds until a request counts as lost.

    Raises:
        InputError: the address is invalid, or the ``openai`` package is not installed.
    """

    model: str
    url: str | None = None
    cache: str | Path | None = None
    concurrency: int = 8
    attempts: int = 10
    timeout: float = 120.0

    def __post_init__(self) -> None:
        if not self.model:
            raise InputError("no model named; expected MODEL or MODEL@URL")
        if not self.address.startswith(("http://", "https://")):
            raise InputError(f"{self.address} is not an address; expected one such as {OPENAI}")
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
        template_arguments: Mapping[str, Any] | None = None,
        progress: Advance = silent,
    ) -> list[Completion]:
        """The model's next message in each conversation, in order.

        Identical conversations are sent once and share one answer, at any temperature. If a model
        rejects ``max_tokens``, the request uses ``max_completion_tokens``; if it rejects
        ``temperature``, the request omits it.

        Args:
            max_tokens: limit for one answer, including the thoughts of a reasoning model.
            template_arguments: passed to the chat template by servers that can (vLLM, SGLang).
            progress: called in this thread with the number of conversations just done.

        Raises:
            InputError: the key is missing or wrong, the model is unknown, or the server is
                unreachable or has another API.
            SpilloverError: temporary failures persisted; received answers stay cached.
        """
        keyed = [
            self._request(each, max_tokens, temperature, template_arguments)
            for each in conversations
        ]
        wanted = Counter(key for key, _ in keyed)
        done = {key: kept for key in wanted if (kept := self._kept(key)) is not None}
        missing = {key: request for key, request in keyed if key not in done}
        if done:
            progress(sum(wanted[key] for key in done))
        for key, completion in self._ask_all(missing):
            done[key] = completion
            progress(wanted[key])
        return [done[key] for key, _ in keyed]

    def to_ask(
        self,
        conversations: Sequence[Conversation],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Indices of the conversations that :meth:`complete` would send to the server."""
        places: dict[str, int] = {}
        for place, conversation in enumerate(conversations):
            asked = self._request(conversation, max_tokens, temperature, template_arguments)
            places.setdefault(asked[0], place)
        return [p for key, p in places.items() if not self.cache or not self._file(key).is_file()]

    def _request(
        self,
        conversation: Conversation,
        max_tokens: int,
        temperature: float,
        template_arguments: Mapping[str, Any] | None,
    ) -> tuple[str, dict[str, Any]]:
        """A hexadecimal key of everything that the answer depends on, and the request.

        Unlike ``interp.store.content_key``, the key omits the package's version: a new version
        sends the same request, and the old answer is already paid for.
        """
        asked: dict[str, Any] = (
            {"prompt": _whole(conversation)}
            if isinstance(conversation, str)
            else {"messages": [{k: _whole(text) for k, text in m.items()} for m in conversation]}
        )
        request = {
            "model": self.model,
            **asked,
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        if template_arguments:
            request["extra_body"] = {"chat_template_kwargs": dict(template_arguments)}
        text = json.dumps([self.address, request], sort_keys=True)
        return hashlib.sha256(text.encode("utf-8")).hexdigest(), request

    def _file(self, key: str) -> Path:
        # Two levels: a folder with a hundred thousand files is slow to list.
        return Path(self.cache or "") / key[:2] / f"{key}.json"

    def _kept(self, key: str) -> Completion | None:
        """The cached answer for ``key``; ``None`` if it is absent or unreadable."""
        try:
            return Completion(**read_json(self._file(key))) if self.cache else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def _ask_all(self, requests: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, Completion]]:
        """Each key with the answer to its request, in order of arrival."""
        if not requests:
            return
        with self._client() as client:
            self._reach(client)
            not_taken: set[str] = set()

            def ask_and_keep(key: str) -> tuple[str, Completion]:
                completion = self._ask(client, requests[key], not_taken)
                if self.cache:
                    write_json(self._file(key), asdict(completion))
                return key, completion

            # Its threads are daemons: after Ctrl-C the process does not wait for open requests,
            # as it would with concurrent.futures.
            with ThreadPool(min(self.concurrency, len(requests))) as pool:
                yield from pool.imap_unordered(ask_and_keep, requests)

    def _client(self) -> openai.OpenAI:
        import openai

        from unlearning.serving.endpoint_errors import mark_hopeless

        key = os.environ.get("OPENAI_API_KEY")
        if not key and self.address == OPENAI:
            raise InputError(
                f"{OPENAI} wants a key; set OPENAI_API_KEY, or name another server (MODEL@URL)"
            )
        return openai.OpenAI(
            api_key=key or "none",
            base_url=self.address,
            timeout=self.timeout,
            max_retries=self.attempts - 1,
            http_client=openai.DefaultHttpxClient(event_hooks={"response": [mark_hopeless]}),
        )

    def _reach(self, client: openai.OpenAI) -> None:
        """Send one request, so that a misspelt address is reported before all retries."""
        import openai

        from unlearning.serving import endpoint_errors as errors

        try:
            client.with_options(max_retries=0).models.with_raw_response.list()
        except openai.APIConnectionError as error:
            if errors.is_unreachable(error):
                raise errors.explained(error, self.model, self.address, 1) from error
        except openai.APIError:
            pass  # the server responds; the content of its answer does not matter

    def _ask(
        self, client: openai.OpenAI, request: Mapping[str, Any], not_taken: set[str]
    ) -> Completion:
        """The answer to one request; ``not_taken`` collects parameters that the model rejects."""
        import openai

        from unlearning.serving import endpoint_errors as errors

        sent = dict(request)
        if "max_tokens" in not_taken:
            sent["max_completion_tokens"] = sent.pop("max_tokens")
        if "temperature" in not_taken:
            del sent["temperature"]
        try:
            api = client.completions if "prompt" in sent else client.chat.completions
            return _completion(api.create(**sent), self.address)
        except openai.APIError as error:
            if errors.is_filtered(error):
                return Completion("", False, 0, 0)
            refused = errors.refused_parameter(error, sent)
            if refused is None:
                raise errors.explained(error, self.model, self.address, self.attempts) from error
            not_taken.add(refused)
            return self._ask(client, request, not_taken)
        except ValueError as error:  # the body is declared as JSON but is not JSON
            raise errors.not_the_protocol(self.address, error) from error


def shared_folder() -> Path:
    """``$SPILLOVER_CACHE``, or ``spillover`` in the user's cache folder."""
    return user_cache("completions")


def _completion(answer: Any, address: str) -> Completion:
    from unlearning.serving.endpoint_errors import not_the_protocol

    choice = next(iter(getattr(answer, "choices", None) or ()), None)
    message = getattr(choice, "message", None)
    text = message and (message.content or getattr(message, "refusal", None) or "")
    text = getattr(choice, "text", None) if message is None else text
    if choice is None or not isinstance(text, str):
        raise not_the_protocol(address, answer)
    usage = getattr(answer, "usage", None)
    return Completion(
        text,
        choice.finish_reason in ENDED,
        int(getattr(usage, "prompt_tokens", None) or 0),
        int(getattr(usage, "completion_tokens", None) or 0),
    )


def _whole(text: str) -> str:
    """``text`` without halves of surrogate pairs, which a request cannot contain."""
    return text.encode("utf-8", "replace").decode("utf-8")
