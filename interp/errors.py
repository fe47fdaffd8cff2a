"""The package's exception tree.

Every message states the problem, the expected input and the fix. The command line prints an
:class:`InputError` as one line and exits with code 2. Every other exception is a bug or a machine
failure and keeps its traceback.
"""

import json
from collections.abc import Iterable
from typing import Any

SHOWN = 60


class SpilloverError(Exception):
    """Base class of the exceptions that this package raises on purpose."""


class InputError(SpilloverError):
    """The user's input cannot be used."""


class FileError(InputError, OSError, ValueError):
    """A file of a run or a cache is missing, incomplete or of another version.

    It is an ``OSError`` and a ``ValueError``, as those of the standard library for such files, so
    a reader that can make the file again catches all of them alike.
    """


class ModelError(InputError):
    """A model, tokenizer or chat template cannot be loaded or does not fit."""


class TrainingError(SpilloverError):
    """A model cannot be trained so, for instance because the loss is not finite."""


class MachineError(SpilloverError):
    """The machine has no memory, disk space or time left."""


def brief(value: Any) -> str:
    """A user's value for a message: in one line, with its end left out if it is long."""
    text = str(value)
    if not text.isprintable():
        text = json.dumps(text)[1:-1]
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def first_line(error: BaseException) -> str:
    """The first line of what an error of another package says, or its name if it says nothing.

    A first line that only announces the others ends with a colon; the second follows it.
    """
    if isinstance(error, KeyError):  # says nothing but the key
        return f"KeyError: {error}"
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    return f"{first} {others[0].strip()}" if others and first.endswith(":") else first


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the most similar known name, if any."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def expected(name: str, known: Iterable[str], words: str = "expected one of") -> str:
    """The end of an error about an unknown name: the most similar known name, and all names."""
    names = list(known)
    near = nearest(name, names)
    start = f"{near} {words.capitalize()}" if near else f"; {words}"
    return f"{start} {', '.join(names)}"
