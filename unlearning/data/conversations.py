"""Rows in chat format: the last user turn is the prompt, and the reply to it the response.

Files of conversations have a column ``messages`` (or ``conversation``), or a list of messages as
``prompt`` or ``response``. A message has ``role`` and ``content``, or ``from`` and ``value``.
Earlier turns and the system message are left out: every command asks single prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from interp.errors import InputError

COLUMNS = ("messages", "conversation", "conversations")
KEYS = (("role", "content"), ("from", "value"))
USER, MODEL = ("user", "human"), ("assistant", "gpt", "model")

Message = tuple[str, str]


def messages_in(value: Any) -> list[Message] | None:
    """The messages of a conversation as (role, text); None if ``value`` is not one.

    Args:
        value: a list of messages, or (in a CSV file) its JSON text.
    """
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return None
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        return None
    for role, content in KEYS:
        if all(isinstance(one, Mapping) and role in one and content in one for one in value):
            return [(str(one[role]).strip().lower(), _text(one[content])) for one in value]
    return None


def last_user_turn(messages: Sequence[Message]) -> tuple[str | None, str | None]:
    """The last message of the user and the model's reply to it; None for what is not there."""
    places = [i for i, (role, _) in enumerate(messages) if role in USER]
    if not places:
        return None, None
    replies = [text for role, text in messages[places[-1] + 1 :] if role in MODEL]
    return messages[places[-1]][1], replies[-1] if replies else None


def with_turns(fields: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A row with ``prompt`` and ``response`` as text, where it has conversations for them.

    Columns that the row has as text are not replaced.

    Raises:
        InputError: a conversation has no message of the user; names the place.
    """
    found = dict(fields)
    for column in ("prompt", *COLUMNS):
        messages = messages_in(fields.get(column))
        if messages is None or (column != "prompt" and fields.get("prompt") is not None):
            continue
        prompt, reply = last_user_turn(messages)
        if prompt is None:
            roles = ", ".join(dict.fromkeys(role for role, _ in messages))
            raise InputError(
                f'{place}: the conversation in "{column}" has no user message (found: {roles}); '
                'give one, or a column "prompt" with text'
            )
        found["prompt"] = prompt
        if reply is not None and found.get("response") is None:
            found["response"] = reply
        break
    # Where the prompt is text, a text that looks like messages is what the model wrote.
    is_chat = any(messages_in(fields.get(column)) for column in ("prompt", *COLUMNS))
    for column in ("response", "compliance"):
        value = fields.get(column)
        if (is_chat or not isinstance(value, str)) and (messages := messages_in(value)):
            replies = [text for role, text in messages if role in MODEL]
            found[column] = replies[-1] if replies else None
    return found


def _text(content: Any) -> str:
    """The text of a message, whose content may be a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        return "\n\n".join(part for part in parts if isinstance(part, str))
    return "" if content is None else str(content)
