"""One definition behind a command of the command line and the Python function of its name.

``@command`` takes a function; its parameters are options, arguments and records of options (the
dataclasses of :mod:`analyses.options`). A call from Python is converted to the words of a command
line. So both forms share the checks of types and bounds, and a run's record holds a command line
that works in a shell.
"""

from __future__ import annotations

import inspect
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from copy import copy
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import cache, reduce, wraps
from operator import or_
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from analyses.command_help import default_of, documented, with_entries
from analyses.paths import require_file, require_folder
from interp import plugins
from interp.errors import InputError, nearest
from interp.numbers import plain_number

HELP = {"help_option_names": ["--help", "-h"]}
GIVEN = re.compile(r"[A-Z]{2,}")
# The form of several values in one option.
COMMAS, PAIRS = "A,B,...", "NAME=VALUE"
METAVARS = {"Path": "PATH", "int": "INTEGER", "float": "NUMBER", "str": "TEXT"}
KEPT_IN = ("adapter", "checkpoint", "merged", "model")  # a model's folder, named by its parent
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

# Old -> new name of an option, for commands that have only the new name. A name in capitals is an
# argument.
OLD_OPTIONS = (
    ("--plan", "--dry-run"),
    ("--model", "MODEL"),
    ("--model", "--model-column"),
    ("--label", "--label-column"),
    ("--trained", "--trainable"),
    ("--activation-checkpointing", "--gradient-checkpointing"),
    ("--stop-at", "--forgetting-level"),
    ("--residue", "--shallow-recovery"),
    ("--objectives", "--objective"),
    ("--rank", "--lora-rank"),
)
OLD_VALUES = {("--kernel", "trained"): "trainable", ("--methods", "twins"): "wording"}
OLD_NAMES_GO_IN = "0.3"

Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Python file that registers your own objectives, scorers or other entries; may be "
        "repeated.",
    ),
]

R = TypeVar("R")
# While a Python function runs: the words of its command line.
_CALLED: ContextVar[tuple[str, ...] | None] = ContextVar("called", default=None)


@dataclass(frozen=True)
class DryRun:
    """The plan of a command that did not run; ``--dry-run`` prints its ``str()``.

    Attributes:
        plan: all inputs and settings of the run.
        lines: the plan in words, with its cost.
    """

    plan: Any
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    __repr__ = __str__


def opt(default: Any, text: str, *names: str, **form: Any) -> Any:
    """An option of a command or of a record: its default, its help text, names and form.

    Args:
        names: instead of the parameter's name.
        form: keywords of ``typer.Option``.
    """
    return field(default=default, metadata={"option": typer.Option(*names, help=text, **form)})


class Command(TyperCommand):
    """A command that takes plug-ins and names the entries of registries in its help.

    ``{package:decorator}`` in a help text stands for the names that the package's modules and the
    active plug-ins declare with that decorator.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Load plug-ins first, so that ``--help`` at any position shows their entries."""
        args = self.with_new_names(args)
        for place, word in enumerate(args):
            if word == "--plugin" and place + 1 < len(args):
                plugins.use(args[place + 1])
            elif word.startswith("--plugin="):
                plugins.use(word.partition("=")[2])
        return super().parse_args(ctx, args)

    def with_new_names(self, args: Sequence[str]) -> list[str]:
        """Replace old names in the arguments, with a line on standard error for each."""
        has = {name for one in self.params for name in (*one.opts, *one.secondary_opts)}
        has |= {one.name.upper() for one in self.params if one.param_type_name == "argument"}
        renamed = {old: new for old, new in OLD_OPTIONS if new in has and old not in has}
        renamed |= {
            old.replace("--", "--no-"): new.replace("--", "--no-")
            for old, new in renamed.items()
            if new.replace("--", "--no-") in has - {new}
        }
        words: list[str] = []
        arguments: list[str] = []
        rest = iter(args)
        for word in rest:
            name, equals, value = word.partition("=")
            if name not in renamed:
                words.append(word)
                continue
            _say_new(name, new := renamed[name])
            if new.isupper():
                arguments.append(value if equals else next(rest, ""))
            else:
                words.append(new + equals + value)
        for (option, old), new in OLD_VALUES.items():
            for place, word in enumerate(words):
                name, equals, value = word.rpartition("=")
                parts = value.split(",")
                if old in parts and option in (name, *words[place - 1 : place]):
                    _say_new(f"{option} {old}", f"{option} {new}")
                    parts[parts.index(old)] = new
                    words[place] = name + equals + ",".join(parts)
        return words + arguments

    def invoke(self, ctx: Any) -> Any:
        """Load the plug-ins, then run the command, so that a broken plug-in fails first."""
        plugins.load_all()
        result = super().invoke(ctx)
        if isinstance(result, DryRun) and _CALLED.get() is None:
            typer.echo(result, err=True)
        return result

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Show ``MODEL`` instead of Typer's ``{MODEL}``."""
        return [re.sub("[{}]", "", one) for one in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Show the help with the names of entries."""
        written = {one: text for one in self.params if (text := getattr(one, "help", None))}
        for parameter, text in written.items():
            parameter.help = with_entries(text)  # type: ignore[attr-defined]
        super().format_options(ctx, formatter)
        for parameter, text in written.items():  # the next call may have other plug-ins
            parameter.help = text  # type: ignore[attr-defined]


def _say_new(old: str, new: str) -> None:
    typer.echo(f"{old} is now {new}; version {OLD_NAMES_GO_IN} removes the old name", err=True)


def command(function: Callable[..., R]) -> Callable[..., R | Any]:
    """``function`` as a command and as a Python function with its options as keywords.

    Flags are ``bool``, several values are a sequence, and ``NAME=VALUE`` pairs are a mapping. The
    Python function prints the output of the command and returns the result of ``function``.

    Raises:
        InputError: an argument is invalid; the message is that of the command line.
    """
    flat = flattened(function)
    shown = flat.__signature__.parameters.values()  # type: ignore[attr-defined]
    parameters = [one.replace(annotation=_accepted(one), default=default_of(one)) for one in shown]
    signature = inspect.Signature(parameters, return_annotation=flat.returns)  # type: ignore[attr-defined]

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> R:
        for unknown in keywords.keys() - signature.parameters.keys():
            close = nearest(unknown, signature.parameters)
            raise TypeError(f"{call.__name__}() has no option {unknown!r}{close}")
        given = signature.bind(*arguments, **keywords).arguments
        made = typed_command(call)
        words = [word for one in made.params for word in _words(one, given.get(one.name))]
        name = call.__name__
        called = _CALLED.set(("spillover", *name.split("_"), *words))
        try:
            with made.make_context(name, list(words)) as context:
                result: R = made.invoke(context)
                return result
        except USAGE_ERROR as error:
            raise InputError(error.format_message()) from error  # type: ignore[attr-defined]
        finally:
            _CALLED.reset(called)

    del call.__wrapped__
    call.__annotations__ = {}
    call.__doc__ = documented(function, list(shown), signature)
    call.__signature__ = signature  # type: ignore[attr-defined]
    call.flat = flat  # type: ignore[attr-defined]
    return call


@cache
def typed_command(function: Any) -> Any:
    """The command of a function."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(function.__name__, cls=Command, context_settings=HELP)(function.flat)
    return typer.main.get_command(app)


def flattened(function: Callable[..., R]) -> Callable[..., R]:
    """``function`` in the form for Typer: fields of records become options; ``--plugin`` is added.

    Records are the dataclasses among the parameters; :class:`Command` handles ``--plugin``.
    """
    returns = function.__annotations__.pop("return", None)
    hints = get_type_hints(function, include_extras=True)
    records: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    shown: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in records:
            types = get_type_hints(records[name], include_extras=True)
            shown += [_option(f.name, types[f.name], f) for f in fields(records[name])]
        else:
            shown.append(_option(name, hints[name], parameter.default))
    shown.append(_option("plugin", Plugins, None))
    shown.sort(key=lambda one: one.kind)  # arguments first
    out = next((one.default for one in shown if one.name == "out"), None)

    @wraps(function)
    def run(plugin: object, **given: Any) -> R:
        if out is not None and given.get("out") == out:
            given["out"] = default_out(str(out), given)
        if isinstance(place := given.get("out"), Path):
            require = require_file if Path(str(out)).suffix else require_folder
            given["out"] = require(place)
        made = {
            name: kind(**{one.name: given.pop(one.name) for one in fields(kind)})
            for name, kind in records.items()
        }
        return function(**given, **made)

    run.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in shown}
    run.returns = returns  # type: ignore[attr-defined]
    return run


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    if isinstance(default, Field):
        if "option" in default.metadata:
            annotation = Annotated[annotation, default.metadata["option"]]
        default = default.default
    hint, info = get_args(annotation)[:2]
    positional = isinstance(info, typer.models.ArgumentInfo)
    if info.metavar is None:
        info = copy(info)
        info.metavar = name.upper() if positional else _metavar(hint)
        annotation = Annotated[hint, info]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _metavar(hint: Any) -> str | None:
    text = str(hint)
    return next((word for name, word in METAVARS.items() if name in text), None)


def default_out(template: str, given: Mapping[str, Any]) -> Path:
    """The default of ``--out``: a word in capitals stands for the value of that option.

    ``runs/study-MODEL-CONCEPT`` of the model ``Qwen/Qwen2.5-1.5B-Instruct`` and the concept
    ``safety`` is ``runs/study-Qwen2.5-1.5B-Instruct-safety``.
    """
    path = Path(template)
    parts = [
        _short_name(given[part.lower()]) if GIVEN.fullmatch(part) else part
        for part in path.stem.split("-")
    ]
    name = "-".join(part for part in parts if part)
    if len(name) > 150:
        raise InputError("the default --out is too long for so many inputs; give --out")
    return path.with_name(name + path.suffix)


def _short_name(value: Any) -> str:
    """The last part of a path or hub id, or of several, for a file's name."""
    if isinstance(value, (list, tuple)):
        return "-".join(map(_short_name, value))
    if value is None:
        return ""
    path = Path(str(value))
    if re.search(r"[:@]", str(value)) and not path.exists():  # a scorer: all of it names it
        return re.sub(r"[^\w.+-]+", "-", re.sub(r"https?://", "", str(value))).strip("-.")
    name = path.parent.name if path.name in KEPT_IN else path.name
    if path.is_file():
        name = path.stem
    return re.sub(r"[^\w.+-]+", "-", name).strip("-.")


def usage_line(error: Any) -> str:
    """A wrong or missing option in one line: what is wrong, what it does, where to read more.

    Without any argument, it is the help of the command.
    """
    message, context = error.format_message().strip(), error.ctx
    if "\n" in message and context is not None and message == context.get_help().strip():
        return str(message)
    line = " ".join(message.split()).rstrip(".")
    what = getattr(getattr(error, "param", None), "help", None)
    if line.startswith("Missing") and what:
        line += f" ({with_entries(what).rstrip('.')})"
    see = " See" if line.endswith("?") else "; see"
    more = f"{see} `{context.command_path} --help`" if context is not None else ""
    return f"error: {line[:1].lower()}{line[1:]}{more}"


def command_line() -> str:
    """The user's command line; for a call from Python, the equivalent command line."""
    return shlex.join(_CALLED.get() or ("spillover", *sys.argv[1:]))


def _words(parameter: Any, value: Any) -> list[str]:
    """The words of a command line for a value from Python."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        value = [f"{name}={json.dumps(one, default=plain_number)}" for name, one in value.items()]
    several = isinstance(value, Iterable) and not isinstance(value, (str, PurePath))
    values = [str(one) for one in (value if several else (value,))]
    if several and parameter.metavar == COMMAS:
        values = [",".join(values)]
    if parameter.param_type_name == "argument":
        return values
    if getattr(parameter, "is_flag", False):
        if not isinstance(plain_number(value), bool):
            raise InputError(f"{parameter.name} is {value!r}; expected True or False")
        return ([*parameter.opts] if value else [*parameter.secondary_opts])[:1]
    if several and not parameter.multiple and parameter.metavar != COMMAS:
        raise InputError(f"{parameter.name} is {value!r}; expected one value")
    option = parameter.opts[0]
    return [
        word
        for one in values
        for word in ((f"{option}={one}",) if one.startswith("-") else (option, one))
    ]


def _accepted(parameter: inspect.Parameter) -> Any:
    """The Python types of a parameter: a path may be text, several values a sequence."""
    hint, info = get_args(parameter.annotation)[:2]
    found: list[Any] = []
    for part in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        inner = get_args(part)[0] if get_origin(part) is list else part
        one = str | Path if inner is Path else inner
        found.append(one)
        if inner is not part or (info.metavar == COMMAS and part is str):
            found.append(Sequence[one])  # type: ignore[valid-type]
        if info.metavar == PAIRS and part is not NoneType:
            found.append(Mapping[str, Any])
    return reduce(or_, found)
