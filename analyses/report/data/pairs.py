"""What the page shows of a pair: an arm's curves, and the cause of each domain's loss."""

from __future__ import annotations

from typing import Any

from analyses.report.data.embedding import rounded
from analyses.runs import Run
from interp.store import read_json

DIGITS = 4


def curves(run: Run) -> dict[str, Any]:
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


def causes(run: Run) -> dict[str, Any]:
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
