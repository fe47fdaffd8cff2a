"""Plug-ins: Python files, or installed packages, that register additional entries.

Users name a plug-in with ``--plugin FILE`` or install it in the entry-point group
``spillover.plugins``. A run's plan contains the plug-in's source, so worker processes on any
machine run the same code. The run's configuration contains its hash.

Keys of results contain the source of a user's own code (:func:`own_source`), so a result of other
code is not reused. A function or class of the package is known by its stage's number in
:data:`interp.store.SCHEMAS`. Everything else is known by its source, by the user's functions,
classes and modules that it names, and by the plain values that it reads from its module or closure.
"""

from __future__ import annotations

import hashlib
import inspect
import linecache
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from interp.errors import InputError

GROUP = "spillover.plugins"
PACKAGES = ("interp", "unlearning", "analyses", "spillover")
PLAIN = (bool, int, float, complex, str, bytes, type(None))
NAMED = (ModuleType, FunctionType, type)


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
