"""Pages of Python names: the front door's, by the room that they come from, for autodoc."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module

FOLDER = "reference/python"
COMMANDS = "commands"
#: Package that a name of the front door comes from → title of its page, and what it is for.
ROOMS = {
    "analyses.workbench": ("Load, measure, change", "load models, collect, patch and unlearn"),
    "interp.directions": ("Estimators of directions", "choose how a direction is fitted"),
    "interp.similarity": ("Maps of directions", "compare directions between labels and models"),
    "interp.interventions": ("Interventions", "ablate, add and orthogonalise directions"),
    "interp.model": ("A loaded model", "look up what a loaded model offers"),
    "analyses.runs": ("A finished run", "read a finished run as DataFrames"),
    "unlearning.data": ("Prompts", "look up the domains"),
    COMMANDS: ("Commands as functions", "call a command from Python"),
    "interp.errors": ("Errors", "catch an error by its kind"),
}


def front_door() -> dict[str, list[str]]:
    """The public names of ``spillover``, by package; the stub is their one list."""
    stub = import_module("spillover").__file__
    assert stub is not None
    found: dict[str, list[str]] = {room: [] for room in ROOMS}
    with open(stub + "i", encoding="utf-8") as file:
        body = ast.parse(file.read()).body
    for node in body:
        if isinstance(node, ast.ImportFrom):
            names = [one.name for one in node.names if one.asname == one.name]
            if names:
                found[str(node.module)] += names
        elif isinstance(node, ast.FunctionDef):
            found[COMMANDS].append(node.name)
    return found


def name_pages() -> Iterator[tuple[str, str]]:
    """Path and text of a page for each package of the front door, and of their list."""
    door = front_door()
    rows = ["| Page | Names |", "|---|---|"]
    for room, names in door.items():
        title, what = ROOMS[room]
        page = room.rpartition(".")[2]
        shown = ", ".join(f"{{py:obj}}`~spillover.{name}`" for name in names)
        rows.append(f"| [{title}]({page}.md) | {shown} |")
        first = f"On this page you can {what}. Every name is used as `sp.NAME`, after "
        lines = [f"# {title}", "", first + "`import spillover as sp`.", "", "```{eval-rst}"]
        for name in names:
            lines += [f".. {directive_of(name)}:: spillover.{name}", *options_of(name), ""]
        yield f"{FOLDER}/{page}.md", "\n".join([*lines, "```", ""])
    tree = ["```{toctree}", ":hidden:", "", *(r.rpartition(".")[2] for r in door), "```", ""]
    yield f"{FOLDER}/index.md", "\n".join([INTRODUCTION, *rows, "", *tree])


INTRODUCTION = """# Python names

On these pages you can look up every public name of `import spillover as sp`, with its arguments,
result, errors and an example that runs. The packages `sp.interp`, `sp.unlearning` and
`sp.analyses` hold the rest; each folder's `__init__.pyi` lists what is public there.
"""


def directive_of(name: str) -> str:
    """The autodoc directive for a name of the front door."""
    found = getattr(import_module("spillover"), name)
    if inspect.isclass(found):
        return "autoexception" if issubclass(found, BaseException) else "autoclass"
    return "autofunction" if callable(found) else "autodata"


def options_of(name: str) -> list[str]:
    """Options of the directive: members of classes."""
    kind = directive_of(name)
    return ["   :members:"] if kind == "autoclass" else []
