"""Everything that a page lets its reader explore."""

from __future__ import annotations

from typing import Any

from analyses.figures import domain_label
from analyses.report.data.embedding import rounded
from analyses.report.data.maps import cosine_heatmap, leakage_heatmap, rotation_heatmap
from analyses.report.data.patches import patching_heatmap
from analyses.runs import Run
from interp.store import read_json

DIGITS = 4


def explorable(run: Run) -> dict[str, Any]:
    """A run for the page's script, without its prompts: heatmaps, curves and causes of pairs.

    Numbers have the decimals that the page prints; the CSV files of the run have all of them.
    """
    maps = (
        leakage_heatmap(run),
        cosine_heatmap(run),
        rotation_heatmap(run, "angle_degrees"),
        rotation_heatmap(run, "gain"),
        patching_heatmap(run),
    )
    return {
        "domains": {name: domain_label(name) for name in run.record.domains},
        "concepts": {arm.name: arm.concept for arm in run.record.arms},
        "maps": {drawn["name"]: drawn for drawn in maps if drawn},
        "curves": _curves(run),
        "causes": _causes(run),
    }


def _curves(run: Run) -> dict[str, Any]:
    """By arm and domain: ``level`` (forgetting level) and lost refusal with its interval."""
    if run.curves.empty:
        return {}
    found: dict[str, Any] = {}
    for (arm, domain), rows in run.curves.groupby(["arm", "domain"], sort=False):
        rows = rows.sort_values("step")
        columns = {"level": "dose", "value": "value", "low": "low", "high": "high"}
        found.setdefault(str(arm), {})[str(domain)] = {
            name: rounded(rows[column], DIGITS) for name, column in columns.items()
        }
    return found


def _causes(run: Run) -> dict[str, Any]:
    """By arm and domain: the sentences of ``spillover explain``."""
    found: dict[str, Any] = {}
    for arm in run.record.arms:
        for domain in run.record.domains:
            path = run.record.folder / "causes" / arm.name / f"{domain}.json"
            if path.is_file():
                stored = read_json(path, ("sentence",))
                said = [stored["sentence"], stored.get("place") or ""]
                found.setdefault(arm.name, {})[domain] = " ".join(filter(None, said))
    return found
