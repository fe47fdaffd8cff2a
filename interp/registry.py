"""One registry per kind of extension: estimators, losses, scorers, predictors, methods.

A decorator call contains everything about an entry. The registry reads its plain values (name,
title, paper, badge, colour) from the source without importing it. So ``--help`` lists every entry,
including those of plug-ins, and stays fast::

    @objective(title="NPO", paper="Zhang et al. 2024, arXiv 2404.05868", badge="faithful")
    def npo(log_probs, reference, mask, *, beta=0.1): ...

A registry's room is the subpackage whose modules declare the built-in entries. The registry imports
an entry's module when the entry is requested by name. To add an entry, add or edit one file.
"""

from __future__ import annotations

import ast
import colorsys
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, Generic, TypeVar

from interp import plugins
from interp.errors import InputError, expected

BADGES = ("faithful", "simplified", "variant")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
HUES = 360


@dataclass(frozen=True)
class About:
    """The plain values of an entry's decorator call.

    Attributes:
        name: key of the entry.
        title: title in figures and tables; by default ``name``.
        paper: authors, year and arXiv id of its paper; empty without a paper.
        badge: ``faithful``, ``simplified`` or ``variant`` of the paper; empty without a paper.
        differs: differences from the paper, unless the entry is faithful.
        colour: colour in figures, ``#rrggbb``; if empty, :func:`colours` chooses one.
        option: name that a user types, if files contain an older ``name``; by default ``name``.
    """

    name: str
    title: str = ""
    paper: str = ""
    badge: str = ""
    differs: str = ""
    colour: str = ""
    option: str = ""

    def __post_init__(self) -> None:
        if self.badge and self.badge not in BADGES:
            raise InputError(
                f'{self.name}: unknown badge "{self.badge}"; expected one of {", ".join(BADGES)}'
            )
        if self.colour and not COLOUR.fullmatch(self.colour):
            raise InputError(f'{self.name}: colour "{self.colour}"; expected one like #1f77b4')
        if not self.title:
            object.__setattr__(self, "title", self.name)
        if not self.option:
            object.__setattr__(self, "option", self.name)


E = TypeVar("E")


class Registry(Mapping[str, E], Generic[E]):
    """The entries of one kind, by name, in the order in which they are declared.

    Args:
        kind: the kind of entry, for error messages, for instance ``estimator``.
        room: the subpackage whose modules declare the built-in entries; None if that package calls
            :meth:`open_room`.
        decorator: the name of the function that registers an entry.
    """

    def __init__(self, kind: str, room: str | None, decorator: str) -> None:
        self.kind, self.room, self.decorator = kind, room, decorator
        self._entries: dict[str, E] = {}
        self._abouts: dict[str, About] = {}
        self._origins: dict[str, str] = {}
        self._makers: dict[str, Callable[..., Any]] = {}

    def add(self, about: About, entry: E, made_by: Callable[..., Any]) -> None:
        """Register ``entry``, which the function or class ``made_by`` defines.

        The same definition may be registered again, for instance by a notebook's cell; it replaces
        the old entry.

        Raises:
            InputError: another definition has this name.
        """
        origin = f"{made_by.__module__}.{made_by.__qualname__}"
        known = self._origins.get(about.name) or self.module_of(about.name)
        self._require_free(about.name, origin, known)
        self._origins[about.name] = origin
        self._entries[about.name] = entry
        self._makers[about.name] = made_by
        self._abouts[about.name] = about

    def open_room(self, room: str) -> None:
        """Add the entries that the modules of a package declare.

        Raises:
            InputError: a plug-in's entry has the name of one of them.
        """
        self.room = room
        for name, origin in self._origins.items():
            self._require_free(name, origin, self.module_of(name))

    def _require_free(self, name: str, origin: str, known: str | None) -> None:
        if known and origin != known and not origin.startswith(f"{known}."):
            raise InputError(
                f"the {self.kind} name {name} is taken by {known}; give {origin} another"
            )

    def module_of(self, name: str) -> str | None:
        """The module of the subpackage that declares this name; None for a plug-in's entry."""
        modules = _modules(self.room) if self.room else {}
        found = (m for m, path in modules.items() if name in _declarations(path, self.decorator))
        return next(found, None)

    @property
    def abouts(self) -> Mapping[str, About]:
        """The plain values of every entry, read without an import."""
        return {
            **(declared(self.room, self.decorator) if self.room else {}),
            **declared_by_plugins(self.decorator),
            **self._abouts,
        }

    def own_source(self, name: str) -> str | None:
        """SHA-256 of the code of a user's entry; None for an entry of the package."""
        self[name]  # its module is imported
        return plugins.own_source(self._makers[name]) if name in self._makers else None

    def find(self, name: str) -> E:
        """The entry of this name.

        Raises:
            InputError: there is no such entry; the message lists all entries.
        """
        keys = {about.option: key for key, about in self.abouts.items()}
        key = keys.get(name, name)
        if key not in self:
            raise InputError(f"there is no {self.kind} {name!r}{expected(name, keys)}")
        return self[key]

    def __getitem__(self, name: str) -> E:
        if name not in self._entries and self.room:
            plugins.load_all()
            if module := self.module_of(name):
                import_module(module)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.abouts

    def __iter__(self) -> Iterator[str]:
        return iter(self.abouts)

    def __len__(self) -> int:
        return len(self.abouts)


def require_parameters(
    function: Callable[..., Any], names: Sequence[str], what: str, *, bound: bool = True
) -> None:
    """Check that a function can be called with positional arguments of these names.

    Args:
        function: to register.
        names: the arguments that it is called with.
        what: the entry, for the message.
        bound: False for a method of a class, whose first parameter is the instance.

    Raises:
        InputError: it takes fewer of them, or needs more.
    """
    given = names if bound else ("self", *names)
    try:
        signature(function).bind(*given)
    except TypeError as error:
        raise InputError(
            f"{what} takes {signature(function)}; expected the parameters {', '.join(names)} "
            f"({error})"
        ) from None


def colours(abouts: Mapping[str, About]) -> dict[str, str]:
    """A colour for every entry: the declared one, or the hue farthest from those in use."""
    found = {name: about.colour for name, about in abouts.items() if about.colour}
    for name in abouts:
        if name not in found:
            used = [_hue(colour) for colour in found.values()] or [0.0]
            best = max(
                (step / HUES for step in range(HUES)),
                key=lambda hue: min(min(abs(hue - u), 1 - abs(hue - u)) for u in used),
            )
            rgb = (round(255 * part) for part in colorsys.hls_to_rgb(best, 0.42, 0.6))
            found[name] = "#{:02x}{:02x}{:02x}".format(*rgb)
    return {name: found[name] for name in abouts}


def _hue(colour: str) -> float:
    rgb = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return colorsys.rgb_to_hls(*rgb)[0]


def declared(room: str, decorator: str) -> dict[str, About]:
    """The entries that a package's modules declare with a decorator, read from their sources."""
    each = (_declarations(path, decorator) for path in _modules(room).values())
    return {name: about for one in each for name, about in one.items()}


def declared_by_plugins(decorator: str) -> dict[str, About]:
    """The entries that the plug-ins in use declare with a decorator, read from their sources."""
    each = (_declarations_in(plugin.source, decorator) for plugin in plugins.in_use())
    return {name: about for one in each for name, about in one.items()}


@cache
def _modules(room: str) -> Mapping[str, Path]:
    """The modules of a package, by name."""
    spec = find_spec(room)
    assert spec is not None and spec.submodule_search_locations, f"{room} is not a package"
    paths = (p for folder in spec.submodule_search_locations for p in Path(folder).glob("*.py"))
    return {f"{room}.{path.stem}": path for path in sorted(paths) if path.stem != "__init__"}


@cache
def _declarations(path: Path, decorator: str) -> Mapping[str, About]:
    return _declarations_in(path.read_text(encoding="utf-8"), decorator)


def _declarations_in(source: str, decorator: str) -> dict[str, About]:
    """The entries that a source declares with a decorator; the default name is the definition's."""
    if decorator not in source:
        return {}
    found = {}
    known = {field.name for field in fields(About)}
    for node in ast.parse(source).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            continue
        for one in node.decorator_list:
            call = one if isinstance(one, ast.Call) else None
            if ast.unparse(call.func if call else one).rpartition(".")[2] != decorator:
                continue
            values: dict[str, Any] = {
                keyword.arg: keyword.value.value
                for keyword in (call.keywords if call else ())
                if keyword.arg in known and isinstance(keyword.value, ast.Constant)
            }
            if call and call.args and isinstance(call.args[0], ast.Constant):
                values["name"] = call.args[0].value
            about = About(**{"name": node.name, **values})
            found[about.name] = about
    return found
