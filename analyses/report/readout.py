"""How a run reads refusal: the tree of response prefixes in words, or the text of answers."""

from __future__ import annotations

from typing import Any

from analyses.runs import BASE, PANEL, RunRecord
from interp.store import read_json
from unlearning.scoring import panel_lines

PREFIXES, TEXT = "prefixes", "text"


def readout_view(record: RunRecord) -> dict[str, Any] | None:
    """The run's readout for `summary.json` and the report; None in a run that holds none.

    Keys: ``kind`` (``prefixes`` or ``text``); ``why_not``, the reason for ``text``; ``aucs``, by
    scorer, of the log-odds on validation prompts; ``covered``, the share of answers to validation
    prompts that begin with a prefix; ``panel``, what the panel says about its verdicts on the base
    model's answers, ``arms_panel`` on the arms'; ``prefixes``, rows of ``class, text, share``.
    """
    path = record.folder / "arms" / BASE / "openers.json"
    if not path.is_file():
        return None
    stored = read_json(path, ("refusal", "compliance"))
    rows = []
    for name in ("refusal", "compliance"):
        texts = (stored.get("text") or {}).get(name, [])
        shares = (stored.get("shares") or {}).get(name) or [None] * len(texts)
        if texts:  # a tree that was not used has left none, but in older runs its shares
            pairs = zip(texts, shares, strict=True)
            rows += [{"class": name, "text": text, "share": share} for text, share in pairs]
    why_not = stored.get("why_not") or None
    return {
        "kind": TEXT if why_not else PREFIXES,
        "why_not": why_not,
        "aucs": stored.get("aucs") or {},
        "covered": stored.get("covered"),
        "panel": panel_lines("the base model", stored.get("panel")),
        "arms_panel": _panel_of_arms(record),
        "prefixes": sorted(rows, key=lambda row: (row["class"] != "refusal", -(row["share"] or 0))),
    }


def _panel_of_arms(record: RunRecord) -> list[str]:
    """What the panel says about its verdicts on the arms' answers, in the order of the arms."""
    files = {arm.name: record.folder / "arms" / arm.name / PANEL for arm in record.arms}
    views = {name: read_json(file, ("rates",)) for name, file in files.items() if file.is_file()}
    return [line for name, view in views.items() for line in panel_lines(name, view)]
