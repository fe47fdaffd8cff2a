"""Pages of Python names for autodoc: those of the front door, then those of every subpackage."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = "reference/python"
COMMANDS = "commands"
LONGEST_VALUE = 120  # characters
FLOORS = ("interp", "unlearning", "analyses")
#: Package that a name of the front door comes from → title of its page, and what it is for.
GROUPS = {
    "analyses.workbench": ("Load, measure, change", "load models, collect, patch and unlearn"),
    "interp.directions": ("Estimators of directions", "choose how a direction is fitted"),
    "interp.similarity": ("Maps of directions", "compare directions between labels and models"),
    "interp.activations": ("Massive activations", "find tokens of massive activation"),
    "interp.interventions": ("Interventions", "ablate, add and orthogonalise directions"),
    "interp.model": ("A loaded model", "look up what a loaded model offers"),
    "analyses.runs": ("A finished run", "read a finished run as DataFrames"),
    "unlearning.data": ("Prompts", "look up the domains"),
    COMMANDS: ("Commands as functions", "call a command from Python"),
    "interp.errors": ("Errors", "catch an error by its kind"),
}
INTRODUCTION = """# Python names

On these pages you can look up every public name, with its arguments, result and errors. The names
of `import spillover as sp` come first, each with an example that runs.

"""
ROOMS = """
## Subpackages

`sp.interp`, `sp.unlearning` and `sp.analyses` are sets of subpackages; each answers one question.
Import from the subpackage: `from interp.directions import MeanDifference`.

"""


def name_pages() -> Iterator[tuple[str, str]]:
    """Path and text of every page, and of their list."""
    door = front_door()
    rows, tree = ["| Page | Names |", "|---|---|"], []
    for package, names in door.items():
        title, what = GROUPS[package]
        tree.append(package.rpartition(".")[2])
        rows.append(f"| [{title}]({tree[-1]}.md) | {_links('spillover', names)} |")
        first = f"On this page you can {what}. Use every name as `sp.NAME`, after "
        text = [f"# {title}", "", first + "`import spillover as sp`.", ""]
        yield f"{FOLDER}/{tree[-1]}.md", "\n".join([*text, *_directives("spillover", names)])
    listed = ["| Subpackage | What it holds |", "|---|---|"]
    for room, names in rooms().items():
        holds = (inspect.getdoc(import_module(room)) or "").partition("\n\n")[0]
        holds = " ".join(holds.split()).replace("``", "`").replace("|", "\\|")
        tree.append(room)
        listed.append(f"| [{room}]({room}.md) | {holds} |")
        text = [f"# {room}", "", f"On this page you can look up the public names of `{room}`."]
        text += [holds, ""]
        if shared := [name for name in names if _is_in_front_door(room, name)]:
            text += [f"In the front door: {_links('spillover', shared)}.", ""]
        others = [name for name in names if name not in shared]
        yield f"{FOLDER}/{room}.md", "\n".join([*text, *_directives(room, others)])
    contents = ["```{toctree}", ":hidden:", "", *tree, "```", ""]
    yield (f"{FOLDER}/index.md", INTRODUCTION + "\n".join([*rows, ROOMS, *listed, "", *contents]))


def front_door() -> dict[str, list[str]]:
    """The public names of ``spillover``, by package; its stub is their one list."""
    found: dict[str, list[str]] = {group: [] for group in GROUPS}
    for node in _stub("spillover").body:
        if isinstance(node, ast.ImportFrom):
            names = [one.name for one in node.names if one.asname == one.name]
            if names:
                found[str(node.module)] += names
        elif isinstance(node, ast.FunctionDef):
            found[COMMANDS].append(node.name)
    return {package: _functions_first(names) for package, names in found.items()}


def rooms() -> dict[str, list[str]]:
    """The public names of every subpackage of the three packages."""
    found = {}
    for floor in FLOORS:
        folder = Path(str(import_module(floor).__file__)).parent
        for stub in sorted(folder.glob("*/__init__.pyi")):
            room = f"{floor}.{stub.parent.name}"
            nodes = [node for node in _stub(room).body if isinstance(node, ast.ImportFrom)]
            found[room] = [one.name for node in nodes for one in node.names if one.asname]
    return found


def _stub(package: str) -> ast.Module:
    return ast.parse(Path(f"{import_module(package).__file__}i").read_text(encoding="utf-8"))


def _is_in_front_door(room: str, name: str) -> bool:
    door = import_module("spillover")
    return name in door.__all__ and getattr(door, name) is getattr(import_module(room), name)


def _functions_first(names: Sequence[str]) -> list[str]:
    door = import_module("spillover")
    return sorted(names, key=lambda name: inspect.isclass(getattr(door, name)))


def _links(package: str, names: Sequence[str]) -> str:
    return ", ".join(f"{{py:obj}}`~{package}.{name}`" for name in names)


def _directives(package: str, names: Sequence[str]) -> Iterator[str]:
    """The directives of a page's names, as lines."""
    yield "```{eval-rst}"
    for name in names:
        kind, options = _directive(getattr(import_module(package), name))
        yield from (f".. {kind}:: {package}.{name}", *options, "")
    yield from ("```", "")


def _directive(found: Any) -> tuple[str, list[str]]:
    if inspect.isclass(found):
        wrong = issubclass(found, BaseException)
        return ("autoexception", []) if wrong else ("autoclass", ["   :members:"])
    if callable(found):
        return "autofunction", []
    shown = repr(found)  # a constant; its class's docstring would say nothing
    return "py:data", [f"   :value: {shown}"] if len(shown) <= LONGEST_VALUE else []
