"""What the errors of a server mean: wait and ask again, or tell the user what to do.

Statuses and codes as in OpenAI's API reference, which vLLM and others follow. Everything here needs
the ``openai`` package.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING

from interp.errors import InputError, SpilloverError

if TYPE_CHECKING:
    import openai

#: Seconds. A server that asks for a longer pause (a daily limit, say) is not waited for.
LONGEST_WAIT = 300.0
PASSING_STATUSES = (408, 409, 425, 429)


def passes(error: openai.APIError, *, reached: bool) -> bool:
    """Whether the same request may succeed a little later.

    Args:
        reached: this server has answered before. One that never did is more likely misspelt than
            busy, and nobody wants to wait half a minute to be told so.
    """
    import openai

    if isinstance(error, openai.APIStatusError):
        if error.code == "insufficient_quota":  # also a 429, but waiting does not pay the bill
            return False
        passing = error.status_code in PASSING_STATUSES or error.status_code >= 500
        return passing and asked_pause(error) <= LONGEST_WAIT
    if isinstance(error, openai.APITimeoutError):
        return True
    return isinstance(error, openai.APIConnectionError) and (reached or not _unreachable(error))


def asked_pause(error: openai.APIError) -> float:
    """Seconds that the server asks to wait (Retry-After); 0 where it does not."""
    import openai

    if not isinstance(error, openai.APIStatusError):
        return 0.0
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return 0.0


def is_filtered(error: openai.APIError) -> bool:
    """Whether the provider would not let the model see this request; others may pass."""
    import openai

    return isinstance(error, openai.BadRequestError) and error.code == "content_filter"


def explained(error: openai.APIError, model: str, address: str, attempts: int) -> SpilloverError:
    """The error as the user should read it: what was wrong, and what to do."""
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
        if asked_pause(error) > LONGEST_WAIT:
            return SpilloverError(
                f"{address} asks to wait {asked_pause(error):.0f} s ({said}); what was answered is "
                "kept: give the same command again then"
            )
        if status < 500 and status not in PASSING_STATUSES:
            return InputError(f"{address} did not take a request for {model} ({status}: {said})")
        return SpilloverError(
            f"{address} failed {attempts} times in a row ({status}: {said}); what was answered is "
            "kept: give the same command again later, or ask less at a time"
        )
    if isinstance(error, openai.APIConnectionError) and _unreachable(error):
        return InputError(
            f"nothing answers at {address} ({_root(error)}); check the address, and that the "
            "server is up"
        )
    return SpilloverError(
        f"no answer from {address} in {attempts} attempts ({_root(error)}); what was answered is "
        "kept: give the same command again later"
    )


def not_the_protocol(address: str, found: object) -> InputError:
    """The error for an answer that is no chat completion."""
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


def _unreachable(error: BaseException) -> bool:
    kinds = (ConnectionRefusedError, socket.gaierror, ssl.SSLCertVerificationError)
    return any(isinstance(cause, kinds) for cause in _causes(error))


def _root(error: BaseException) -> str:
    cause = list(_causes(error))[-1]
    return str(cause) or type(cause).__name__
