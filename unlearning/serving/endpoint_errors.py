"""Explain the errors of a server, and what the user can do about each.

Statuses and codes as in OpenAI's API reference, which vLLM and others follow. Everything here needs
the ``openai`` package.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, SpilloverError

if TYPE_CHECKING:
    import openai

#: Seconds. openai's client does not wait for a server that asks for more (a daily limit, say).
LONGEST_PAUSE = 120.0
RETRIED = (408, 409, 429)  # openai's client retries these and all statuses from 500 up


def mark_hopeless(response: Any) -> None:
    """Stop openai's client from retrying if an account has no credit left.

    This is a response hook of its HTTP client; the client obeys the header that the hook sets.
    """
    if response.status_code == 429 and b"insufficient_quota" in response.read():
        response.headers["x-should-retry"] = "false"


def asked_pause(error: openai.APIStatusError) -> float:
    """Seconds that the server asks to wait (Retry-After); 0 without such a request."""
    try:
        return float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        return 0.0


def is_filtered(error: openai.APIError) -> bool:
    """Whether the provider's filter blocked this request; other requests may pass."""
    import openai

    return isinstance(error, openai.BadRequestError) and error.code == "content_filter"


def refused_parameter(error: openai.APIError, sent: Mapping[str, Any]) -> str | None:
    """The parameter that the error names, among those that can be replaced or omitted."""
    if getattr(error, "status_code", None) not in (400, 422):
        return None
    replaceable = ("temperature",) if "prompt" in sent else ("max_tokens", "temperature")
    names = (name for name in replaceable if name in sent)
    return next((name for name in names if error.param == name or name in error.message), None)


def explained(error: openai.APIError, model: str, address: str, attempts: int) -> SpilloverError:
    """The error for the user: what was wrong, and what to do."""
    import openai

    said = " ".join(_message(error).split())[:300]
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        if status in (401, 403):
            return InputError(
                f"{address} refused the key ({status}: {said}); set OPENAI_API_KEY to one for it"
            )
        if status == 404:
            return InputError(
                f"{address} has no model {model}, or is not the address of an API (404: {said}); "
                "check the name, and that the address ends as the server wants it, mostly in /v1"
            )
        if error.code == "insufficient_quota":
            return InputError(f"the account at {address} has nothing left to spend ({said})")
        if status in RETRIED and asked_pause(error) > LONGEST_PAUSE:
            return SpilloverError(
                f"{address} asks to wait {asked_pause(error):.0f} s ({said}); what was answered is "
                "kept: give the same command again then"
            )
        if status < 500 and status not in RETRIED:
            return InputError(f"{address} did not take a request for {model} ({status}: {said})")
        return SpilloverError(
            f"{address} failed {attempts} times in a row ({status}: {said}); what was answered is "
            "kept: give the same command again later, or ask less at a time"
        )
    if isinstance(error, openai.APIConnectionError) and is_unreachable(error):
        return InputError(
            f"nothing answers at {address} ({_root(error)}); check the address, and that the "
            "server is up"
        )
    return SpilloverError(
        f"no answer from {address} in {attempts} attempts ({_root(error)}); what was answered is "
        "kept: give the same command again later"
    )


def not_the_protocol(address: str, found: object) -> InputError:
    """The error for an answer that is not a chat completion."""
    shown = " ".join(str(found).split())[:120]
    return InputError(
        f"{address} answers, but not with chat completions (it said: {shown}); check that it is "
        "the address of an OpenAI-compatible API, mostly ending in /v1"
    )


def _message(error: openai.APIError) -> str:
    if isinstance(error.body, dict) and isinstance(error.body.get("message"), str):
        return str(error.body["message"])
    return error.message


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def is_unreachable(error: BaseException) -> bool:
    """Whether the server cannot be reached; a misspelt address is likelier than a busy server."""
    kinds = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)
    return any(isinstance(cause, kinds) for cause in _causes(error))


def _root(error: BaseException) -> str:
    cause = list(_causes(error))[-1]
    return str(cause) or type(cause).__name__
