"""Spillover measures, explains, predicts and contains what narrow unlearning does to a model.

    import spillover as sp

    lm = sp.load("organism")
    prompts = sp.prompts("organism")
    acts = sp.collect(lm, prompts)
    dirs = sp.fit_directions(acts, prompts, sp.MeanDifference())
    sp.cosine_map(dirs).plot(layer=2)

``dir(sp)`` lists every name and ``help(sp.patch)`` explains one. Examples in docstrings continue
these lines. Every command is a function of the same name with the same options: ``sp.study``.
The packages ``sp.interp``, ``sp.unlearning`` and ``sp.analyses`` hold the rest.

``__init__.pyi`` is the one list of names, for type checkers and for this module alike. A name is
imported when it is first used, so that ``import spillover`` is fast.
"""

import ast
import os
from importlib import import_module
from pathlib import Path
from typing import Any

# A thread of torch that waits for another computes meanwhile, on Linux for 300,000 turns of a loop
# by default. Where other programs stop threads, these waits take most of the time. Torch reads the
# variable when it is first imported.
if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
    os.environ["GOMP_SPINCOUNT"] = "5000"

_COMMANDS = "analyses.cli"  # it lists the module of each command


def _listed() -> dict[str, tuple[str, str | None]]:
    """Module and attribute of every public name of the stub; for a command, its name."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    found: dict[str, tuple[str, str | None]] = {}
    for node in stub.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            given_out = [one.name for one in node.names if one.asname == one.name]
            found |= {name: (module or name, name if module else None) for name in given_out}
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = _COMMANDS, node.name
    return found


_LISTED = _listed()
__all__ = sorted(_LISTED)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("interp.store").package_version()
    if name not in _LISTED:
        close = import_module("interp.errors").nearest(name, __all__)
        raise AttributeError(f"spillover has no {name}{close or '; see dir(spillover)'}")
    module, attribute = _LISTED[name]
    if module == _COMMANDS:
        module, _, attribute = import_module(module).FUNCTIONS[name].partition(":")
    found = import_module(module)
    globals()[name] = value = found if attribute is None else getattr(found, attribute)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
