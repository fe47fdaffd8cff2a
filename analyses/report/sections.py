"""Report sections for the results of ``spillover explain`` and ``spillover contain``."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

from analyses.figures import domain_label
from analyses.report.page import inlined
from analyses.report.wording import interval
from analyses.runs import RunRecord
from interp.statistics import Estimate
from interp.store import read_json

CONTAINMENT = "containment"  # folder, JSON file and figure of ``spillover contain``


def causes_view(record: RunRecord, shown: Collection[str]) -> list[dict[str, Any]]:
    """Every explained arm: its label and, by domain, the sentences, the figure and its file.

    The page inlines the figures of the arms in ``shown``. It only links to the others (their image
    is ``None``), because a matrix has a hundred of them.
    """
    found = []
    for arm in record.arms:
        folder = record.folder / "causes" / arm.name
        names = sorted(path.stem for path in folder.glob("*.json"))
        names = [name for name in names if (folder / f"{name}.svg").is_file()]
        images = inlined(folder, names, within=".") if arm.name in shown else {}
        domains = []
        for name in names:
            stored = read_json(folder / f"{name}.json", ("cause", "sentence"))
            domains.append(
                {
                    "domain": domain_label(name),
                    "cause": stored["cause"] or "not decided",
                    "sentence": stored["sentence"],
                    "place": stored.get("place", ""),
                    "image": images.get(name),
                    "file": f"causes/{arm.name}/{name}.svg",
                }
            )
        if domains:
            found.append({"name": arm.name, "label": arm.label, "domains": domains})
    return found


def containment_view(record: RunRecord) -> dict[str, Any]:
    """A containment study's methods, figure and advice; empty if the run has none.

    A method's title is the one that the study stored, or else its name.
    """
    folder = record.folder / CONTAINMENT
    if not (folder / f"{CONTAINMENT}.json").is_file():
        return {}
    stored = read_json(folder / f"{CONTAINMENT}.json", ("methods", "concept", "advice"))
    titles = stored.get("titles", {})
    rows = [
        {
            "title": titles.get(row["method"], row["method"]),
            "examples": f"{row['examples']:g}" if row["examples"] else "all",
            "weight": "–" if row["weight"] is None else f"{row['weight']:g}",
            "complied": f"{row['complied']} of {row['splits']}",
            "answers": "–" if row["answer_rate"] is None else f"{row['answer_rate']:.2f}",
            "held_out": _recovery(row, "held_out"),
            "retained": _recovery(row, "retained"),
        }
        for row in stored["methods"]
    ]
    return {
        "concept": domain_label(stored["concept"]),
        "methods": rows,
        "advice": stored["advice"],
        "image": inlined(folder, [CONTAINMENT], within=".")[CONTAINMENT],
    }


def _recovery(row: Mapping[str, Any], name: str) -> str:
    value, low, high = (
        math.nan if row.get(name + end) is None else float(row[name + end])
        for end in ("", "_low", "_high")
    )
    return interval(Estimate(value, low, high, row["splits"]))
