"""One registry for each kind of thing that grows: estimators, losses, scorers, predictors, methods.

A decorator call holds everything about an entry. What it says of the entry in plain values (name,
title, paper, badge, colour) is also read from the source without importing it, so ``--help`` knows
every entry, those of plug-ins included, and stays fast::

    @objective(title="NPO", paper="Zhang et al. 2024, arXiv 2404.05868", badge="faithful")
    def npo(log_probs, reference, mask, *, beta=0.1): ...

An entry of a room is imported when it is requested by name. To add one, edit only one file.
"""

from __future__ import annotations

import ast
import colorsys
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

from interp import plugins
from interp.errors import InputError, expected

BADGES = ("faithful", "simplified", "variant")
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
HUES = 360


@dataclass(frozen=True)
class About:
    """What a decorator call says of an entry in plain values.

    Attributes:
        name: by which it is asked for.
        title: in figures and tables.
        paper: where it comes from: authors, year, arXiv id; empty where it is from no paper.
        badge: ``faithful``, ``simplified`` or ``variant`` of that paper; empty where there is none.
        differs: what differs from the paper, unless it is faithful.
        colour: in figures, ``#rrggbb``; :func:`colours` gives one to those that name none.
        option: as a user types it, where files hold an older name as a key.
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
        kind: what an entry is, for errors: ``estimator``.
        room: the package whose modules declare the built-in entries; None where that package
            calls :meth:`open_room`.
        decorator: the name of the function that registers an entry.
    """

    def __init__(self, kind: str, room: str | None, decorator: str) -> None:
        self.kind, self.room, self.decorator = kind, room, decorator
        self._entries: dict[str, E] = {}
        self._abouts: dict[str, About] = {}
        self._origins: dict[str, str] = {}

    def add(self, about: About, entry: E, made_by: Callable[..., Any]) -> None:
        """Register ``entry``, which a function or class makes.

        The same definition may come again, as a notebook's cell does: it replaces the old one.

        Raises:
            InputError: the name is taken by another definition.
        """
        origin = f"{made_by.__module__}.{made_by.__qualname__}"
        known = self._origins.get(about.name) or self._declared_in(about.name)
        self._require_free(about.name, origin, known)
        self._origins[about.name] = origin
        self._entries[about.name] = entry
        self._abouts[about.name] = about

    def open_room(self, room: str) -> None:
        """Take the entries that the modules of a package declare.

        Raises:
            InputError: a plug-in has the name of one of them.
        """
        self.room = room
        for name, origin in self._origins.items():
            self._require_free(name, origin, self._declared_in(name))

    def _require_free(self, name: str, origin: str, known: str | None) -> None:
        if known and origin != known and not origin.startswith(f"{known}."):
            raise InputError(
                f"the {self.kind} name {name} is taken by {known}; give {origin} another"
            )

    def _declared_in(self, name: str) -> str | None:
        """The module of the room that declares this name."""
        modules = _modules(self.room) if self.room else {}
        found = (m for m, path in modules.items() if name in _declarations(path, self.decorator))
        return next(found, None)

    @property
    def abouts(self) -> Mapping[str, About]:
        """What is said of every entry; imports none of them."""
        return {
            **(declared(self.room, self.decorator) if self.room else {}),
            **declared_by_plugins(self.decorator),
            **self._abouts,
        }

    def find(self, name: str) -> E:
        """The entry of this name.

        Raises:
            InputError: there is none; lists those there are.
        """
        keys = {about.option: key for key, about in self.abouts.items()}
        key = keys.get(name, name)
        if key not in self:
            raise InputError(f"there is no {self.kind} {name!r}{expected(name, keys)}")
        return self[key]

    def __getitem__(self, name: str) -> E:
        if name not in self._entries and self.room:
            plugins.load_all()
            if module := self._declared_in(name):
                import_module(module)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.abouts

    def __iter__(self) -> Iterator[str]:
        return iter(self.abouts)

    def __len__(self) -> int:
        return len(self.abouts)


def colours(abouts: Mapping[str, About]) -> dict[str, str]:
    """A colour for every entry: its own, else the hue that is farthest from those in use."""
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
    """What the modules of a package declare with a decorator, read from their sources."""
    each = (_declarations(path, decorator) for path in _modules(room).values())
    return {name: about for one in each for name, about in one.items()}


def declared_by_plugins(decorator: str) -> dict[str, About]:
    """The same of the plug-ins in use."""
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
    """The calls of a decorator in a source: its plain values, and the name of what it decorates."""
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
