"""``python -m experiments.front_door_stub``: signatures of the commands' functions.

``spillover/__init__.pyi`` ends with these functions. They take their options from the commands at
run time, so a type checker needs them written out.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from analyses.cli import FUNCTIONS

# The functions of these names in `sp` have other signatures.
OTHER_FORMS = ("score", "unlearn")
PREFIXES = re.compile(r"\b(?:collections\.abc|pathlib|typing|analyses\.commands)\.")
IMPORTS = (
    "from collections.abc import Mapping, Sequence",
    "from pathlib import Path",
    "from typing import Any",
)


def command_functions() -> dict[str, Callable[..., Any]]:
    """The functions of the commands that the front door offers, by name."""
    places = {
        name: place.split(":") for name, place in FUNCTIONS.items() if name not in OTHER_FORMS
    }
    found = {name: getattr(import_module(m), attribute) for name, (m, attribute) in places.items()}
    return {name: one for name, one in found.items() if inspect.isfunction(one)}


def stub_of(function: Callable[..., Any]) -> str:
    """``def`` with types and defaults; the ``DryRun`` of a dry run is typed ``Any``."""
    signature = inspect.signature(function)
    parts = []
    for one in signature.parameters.values():
        if one.kind is one.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        default = "" if one.default is one.empty else f" = {one.default!r}"
        kind = PREFIXES.sub("", inspect.formatannotation(one.annotation))
        parts.append(f"{one.name}: {kind}{default}")
    returns = str(signature.return_annotation).replace("DryRun", "Any")
    listed = "".join(f"    {part},\n" for part in parts)
    return f"def {function.__name__}(\n{listed}) -> {returns}: ...\n"


def imports_of(function: Callable[..., Any]) -> set[str]:
    """The imports for the type of a function's result."""
    needed = set(re.findall(r"\w+", str(inspect.signature(function).return_annotation)))
    source = inspect.getsource(import_module(function.__module__))
    found = {"import pandas as pd"} if "pd" in needed else set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names = needed - {"Any", "DryRun", "Mapping"}
            found |= {f"from {node.module} import {a.name}" for a in node.names if a.name in names}
    return found


def stub_text() -> str:
    """Imports and functions, in the order of the commands."""
    functions = command_functions().values()
    imports = {*IMPORTS, *(one for function in functions for one in imports_of(function))}
    return "\n".join(sorted(imports)) + "\n\n" + "\n".join(map(stub_of, functions))


if __name__ == "__main__":
    print(stub_text(), end="")
