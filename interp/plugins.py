"""Plug-ins: Python files, or installed packages, that register additional entries.

Users name a plug-in with ``--plugin FILE`` or install it in the entry-point group
``spillover.plugins``. A run's plan contains the plug-in's source, so worker processes on any
machine run the same code. The run's configuration contains its hash.
"""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from interp.errors import InputError

GROUP = "spillover.plugins"


@dataclass(frozen=True)
class Plugin:
    """One plug-in.

    Attributes:
        path: path of its file.
        source: text of its file.
        module: name of the installed module; None for a file that a user names.
    """

    path: str
    source: str
    module: str | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of its source, in hexadecimal."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def described(self) -> dict[str, str]:
        """The plug-in's entry in ``config.json``."""
        return {"path": self.path, "sha256": self.sha256}


_NAMED: dict[str, Plugin] = {}
_LOADED: dict[str, Plugin] = {}


def use(path: str | Path) -> Plugin:
    """Use a file as a plug-in; it runs when an entry is first requested.

    Raises:
        InputError: the file cannot be read, or is not Python.
    """
    path = Path(path)
    try:
        source = path.read_text(encoding="utf-8")
        compile(source, str(path), "exec")
    except OSError as error:
        raise InputError(f"--plugin {path}: {error.strerror or error}") from error
    except (SyntaxError, ValueError) as error:
        raise InputError(f"--plugin {path} is not a Python file: {error}") from error
    return use_all([Plugin(str(path.resolve()), source)])[0]


def use_all(given: Iterable[Plugin]) -> tuple[Plugin, ...]:
    """Use the plug-ins of another process."""
    found = {plugin.path: plugin for plugin in given}
    _NAMED.update(found)
    return tuple(found.values())


def in_use() -> tuple[Plugin, ...]:
    """Installed plug-ins and the plug-ins that the user names."""
    return tuple({**{one.path: one for one in _installed()}, **_NAMED}.values())


def load_all() -> tuple[Plugin, ...]:
    """Run every plug-in in use that has not run yet; return all plug-ins in use.

    Raises:
        InputError: a plug-in fails.
    """
    for plugin in in_use():
        if _LOADED.get(plugin.path) != plugin:
            _LOADED[plugin.path] = plugin  # before the run, which may look up entries
            try:
                _run(plugin)
            except BaseException:
                del _LOADED[plugin.path]
                raise
    return in_use()


def reuse(described: Iterable[Mapping[str, Any]]) -> list[str]:
    """Use the plug-ins of a run's configuration; return a note for each missing or changed one."""
    notes = []
    for one in described:
        path = Path(one["path"])
        if any(plugin.sha256 == one["sha256"] for plugin in in_use()):
            continue
        if not path.is_file():
            notes.append(f"the plug-in {path} is gone; give its new place with --plugin")
        elif use(path).sha256 != one["sha256"]:
            notes.append(f"the plug-in {path} has changed since the run was made")
    return notes


def _run(plugin: Plugin) -> None:
    try:
        if plugin.module is None:
            _run_file(plugin)
        else:
            import_module(plugin.module)
    except InputError as error:
        raise InputError(f"--plugin {plugin.path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise InputError(
            f"--plugin {plugin.path} fails: {type(error).__name__}: {error}"
        ) from error


def _run_file(plugin: Plugin) -> None:
    place = hashlib.sha256(plugin.path.encode()).hexdigest()[:8]
    name = f"spillover_plugin_{Path(plugin.path).stem}_{place}"
    module = ModuleType(name)
    module.__file__ = plugin.path
    sys.modules[name] = module  # pickle and dataclasses look up definitions here
    lines = plugin.source.splitlines(keepends=True)
    linecache.cache[plugin.path] = (len(plugin.source), None, lines, plugin.path)
    exec(compile(plugin.source, plugin.path, "exec"), module.__dict__)


@cache
def _installed() -> tuple[Plugin, ...]:
    found = []
    for point in entry_points(group=GROUP):
        spec = find_spec(point.module)
        if spec is None or not spec.origin:
            raise InputError(
                f"the installed plug-in {point.name} names the module {point.module}, which is "
                "not there; reinstall or remove its package"
            )
        source = Path(spec.origin).read_text(encoding="utf-8")
        found.append(Plugin(spec.origin, source, point.module))
    return tuple(found)
