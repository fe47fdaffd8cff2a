"""The one exception tree.

Every message names what was wrong, what was expected and what to do about it. The command line
turns an :class:`InputError` into one line and exit code 2; everything else is a bug or a failure
of the machine, and keeps its traceback.
"""

from collections.abc import Iterable


class SpilloverError(Exception):
    """Anything that this package raises on purpose."""


class InputError(SpilloverError):
    """The user's input cannot be used."""


class ModelError(InputError):
    """A model, tokenizer or chat template cannot be loaded or does not fit."""


class TrainingError(SpilloverError):
    """Training could not go on, for instance because the loss is not finite."""


class MachineError(SpilloverError):
    """The machine ran out of something: memory, or room on the disk."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the known one that is most like it, if any."""
    from difflib import get_close_matches

    found = get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""


def expected(name: str, known: Iterable[str], words: str = "expected one of") -> str:
    """The end of an error about an unknown name: the nearest known one, and all of them."""
    names = list(known)
    near = nearest(name, names)
    start = f"{near} {words.capitalize()}" if near else f"; {words}"
    return f"{start} {', '.join(names)}"
