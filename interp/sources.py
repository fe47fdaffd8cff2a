"""The source of a user's own code, for keys: a result of other code is not reused.

A function or class of the package is known by its stage's number in :data:`interp.store.SCHEMAS`.
Everything else is known by its source, by the user's functions, classes and modules that it names,
and by the plain values that it reads from its module or closure.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

PACKAGES = ("interp", "unlearning", "analyses", "spillover")
PLAIN = (bool, int, float, complex, str, bytes, type(None))
NAMED = (ModuleType, FunctionType, type)


def own_source(made: Any) -> str | None:
    """SHA-256 of the code of a user's function or class; None for one of the package.

    Returns:
        Hexadecimal; the same for the same code in another file or process.
    """
    module = getattr(made, "__module__", None) or ""
    if module.partition(".")[0] in PACKAGES:
        return None
    digest = hashlib.sha256()
    for text in _texts(made, module.partition(".")[0], set()):
        digest.update(f"{len(text)}:{text}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _texts(thing: Any, home: str, met: set[int]) -> Iterator[str]:
    """The sources of a thing and of everything of the user's that it names, each once."""
    module = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None)
    if id(thing) in met or not _is_users(module, home):
        return
    met.add(id(thing))
    if isinstance(thing, ModuleType):
        yield _source(thing)
        for inner in vars(thing).values():
            if isinstance(inner, NAMED) and getattr(inner, "__module__", None) != module:
                yield from _texts(inner, home, met)
    elif isinstance(thing, type):
        yield _source(thing)
        for inner in [*vars(thing).values(), *thing.__bases__]:
            inner = getattr(inner, "__func__", inner)
            if isinstance(inner, NAMED):
                yield from _texts(inner, home, met)
    elif isinstance(thing, FunctionType):
        yield _source(thing.__code__)  # of a decorated function, the decorator's own part
        defaults = {**(thing.__kwdefaults__ or {}), "": thing.__defaults__ or ()}
        defaults["wrapped"] = getattr(thing, "__wrapped__", None)
        for name, value in (*defaults.items(), *_named_in(thing)):
            yield from _value(name, value, home, met)


def _value(name: str, value: Any, home: str, met: set[int]) -> Iterator[str]:
    """What a name stands for; never the address of an object, which is another in each process."""
    if isinstance(value, NAMED):
        yield from _texts(value, home, met)
    elif isinstance(value, PLAIN):
        yield f"{name} = {value!r}"
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _value(f"{name}[{key!r}]", inner, home, met)
    elif isinstance(value, (tuple, list)):
        for number, inner in enumerate(value):
            yield from _value(f"{name}[{number}]", inner, home, met)
    elif isinstance(value, (set, frozenset)):
        yield f"{name} = {sorted(map(repr, value))}"
    elif hasattr(value, "tolist"):  # an array or a tensor
        yield f"{name} = {value.tolist()!r}"
    elif isinstance(value, partial):
        yield from _value(name, (value.func, value.args, value.keywords), home, met)
    elif _is_users(type(value).__module__, home) and id(value) not in met:
        met.add(id(value))
        yield from _texts(type(value), home, met)
        yield from _value(name, dict(getattr(value, "__dict__", {})), home, met)


def _named_in(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """The globals and closed-over values that a function reads, by name."""
    names = sorted(_names(function.__code__))
    yield from (
        (name, function.__globals__[name]) for name in names if name in function.__globals__
    )
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not set yet
            continue


def _names(code: CodeType) -> set[str]:
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return set(code.co_names).union(*map(_names, inner))


def _is_users(module: str | None, home: str) -> bool:
    """Whether a module is the user's: not Python's, not installed, unless it is the entry's own."""
    top = (module or "").partition(".")[0]
    if top == home:
        return True
    if not top or top in PACKAGES or top in sys.stdlib_module_names:
        return False
    file = getattr(sys.modules.get(top), "__file__", None)
    return file is None or not {"site-packages", "dist-packages"} & set(Path(file).parts)


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # typed into a prompt, or made by exec
        is_code = isinstance(thing, CodeType)
        return repr(_plain_code(thing)) if is_code else str(getattr(thing, "__name__", ""))


def _plain_code(code: CodeType) -> list[Any]:
    values = (one for one in code.co_consts if not isinstance(one, frozenset))
    inner = [_plain_code(one) if isinstance(one, CodeType) else one for one in values]
    return [code.co_code, code.co_names, code.co_varnames, inner]
