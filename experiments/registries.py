"""The README's table of objectives, retain terms, containment methods and estimators."""

from __future__ import annotations

from analyses.contain.methods import METHODS
from interp.directions import ESTIMATORS
from interp.registry import About, Registry
from unlearning.losses import FORGET, RETAIN

#: Kind of entry → its registry and the option that takes its names.
KINDS: dict[str, tuple[Registry, str]] = {
    "Objective": (FORGET, "--objective"),
    "Retain term": (RETAIN, "--retain-objective"),
    "Containment": (METHODS, "--methods"),
    "Estimator": (ESTIMATORS, "--estimator"),
}


def registry_table() -> str:
    """The package's entries as a Markdown table: kind, name, what the entry is, paper, badge."""
    rows = ["| Kind | Name | What it is | Paper | Badge |", "|---|---|---|---|---|"]
    for kind, (registry, option) in KINDS.items():
        for name, about in registry.abouts.items():
            if registry.own_source(name):
                continue  # a plug-in's
            what = METHODS[name].does if registry is METHODS else about.title
            rows.append(
                f"| {kind} (`{option}`) | `{about.option}` | {what} "
                f"| {about.paper or 'here'} | {_badge(about)} |"
            )
    return "\n".join(rows) + "\n"


def _badge(about: About) -> str:
    return f"{about.badge}: {about.differs}" if about.differs else about.badge
