"""What ``spillover explain`` found in a run, as its report shows it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from analyses.figures import domain_label
from analyses.report.page import inlined
from analyses.runs import RunRecord
from interp.store import read_json


def causes_view(record: RunRecord, shown: Collection[str]) -> list[dict[str, Any]]:
    """Every explained arm: its label and, by domain, the sentences, the figure and its file.

    Figures of the arms in ``shown`` are inlined; those of others are ``None``, and only linked to:
    a matrix has a hundred of them.
    """
    found = []
    for arm in record.arms:
        folder = record.folder / "causes" / arm.name
        names = sorted(path.stem for path in folder.glob("*.json"))
        names = [name for name in names if (folder / f"{name}.svg").is_file()]
        images = inlined(folder, names, within=".") if arm.name in shown else {}
        domains = []
        for name in names:
            stored = read_json(folder / f"{name}.json")
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
