"""The method map: every entry of the registries with its paper, badge and file."""

from __future__ import annotations

from typing import Any

from analyses.predict import PREDICTORS
from experiments.registries import KINDS
from interp.registry import About, Registry
from unlearning.scoring import SCORERS

OTHERS: dict[str, tuple[Registry[Any], str]] = {
    "Predictor": (PREDICTORS, "predict, tournament"),
    "Scorer": (SCORERS, "--scorer"),
}
TITLES = {"Containment": "Containment method"}
INTRODUCTION = """# Map of methods

On this page you can look up which paper a method comes from, how far it follows that paper, and
which file holds it. The tables are made from the registries, so they name every entry that
`--help` names.

The **badge** says how near an entry is to its paper:

| Badge | Meaning |
|---|---|
| `faithful` | the paper's equation and units, tested against it |
| `variant` | the paper's method with a difference, named in the next column |
| `simplified` | less than the paper's method; the next column names what is left out |
| none | no paper: made here, or a standard tool |

Your own entries come in by `--plugin FILE` ([plug-ins](../how-to/plugins.md)) and have the same
fields.
"""


def methods_page() -> str:
    """The page in Markdown, a table for each registry."""
    lines = [INTRODUCTION]
    for kind, (registry, option) in {**KINDS, **OTHERS}.items():
        lines += [
            f"## {TITLES.get(kind, kind)}s" + (f" (`{option}`)" if option.startswith("-") else ""),
            "",
        ]
        lines += [
            "| Name | What it is | Paper | Badge | What differs | File |",
            *["|---" * 6 + "|"],
        ]
        for name, about in registry.abouts.items():
            lines.append(row_of(name, about, registry))
        lines.append("")
    return "\n".join(lines)


def row_of(name: str, about: About, registry: Registry[Any]) -> str:
    """One entry as a row of its table."""
    file = f"{registry.module_of(name)}".replace(".", "/") + ".py"
    cells = (f"`{about.option}`", about.title, about.paper, about.badge, about.differs, f"`{file}`")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
