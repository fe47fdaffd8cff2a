"""Everything that a page lets its reader explore."""

from __future__ import annotations

from typing import Any

from analyses.figures import domain_label
from analyses.report.data.maps import cosine_heatmap, leakage_heatmap, rotation_heatmap
from analyses.report.data.pairs import causes, curves
from analyses.report.data.patches import patching_heatmap
from analyses.report.data.prompt_table import prompt_table
from analyses.runs import Run


def explorable(run: Run, *, show_completions: bool = False) -> dict[str, Any]:
    """A run for the page's script: its heatmaps, the curves and causes of its pairs, its prompts.

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
        "curves": curves(run),
        "causes": causes(run),
        "prompts": prompt_table(run, show_completions=show_completions),
    }
