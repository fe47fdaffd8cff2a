"""The prompts table: every scored prompt before and after, in columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analyses.report.data.embedding import coded, rounded
from analyses.report.data.maps import arm_labels
from analyses.runs import BASE, Arm, Run
from interp.store import read_table

Json = dict[str, Any]
DIGITS = 2  # of log-odds, nats
FORECASTS = {"forecast": 2, "flip_90": 2}  # columns that `spillover predict` adds to the prompts


def prompt_table(run: Run, *, show_completions: bool = False) -> Json:
    """Columns of the prompts of the base model's scores, and by arm what changes.

    Keys: ``forecasts`` (None without any), ``prompt``, ``domain``, ``split``, ``label``, ``before``
    and, by arm, ``after``; each of these two holds ``class``, ``log_odds`` (nats) and, on request,
    ``completion``.
    """
    return merged_prompts((run,), ("",), show_completions=show_completions)


def merged_prompts(
    runs: Sequence[Run], names: Sequence[str], *, show_completions: bool = False
) -> Json:
    """The prompts of runs of one base model in one table; labels of arms begin with the run's name.

    The prompts, the answers before and the forecasts, if any, are those of the first run.
    """
    base = runs[0].record.base.last.drop_duplicates("prompt_id")
    ids = base["prompt_id"]
    prompts = read_table(runs[0].record.folder / "prompts.parquet", ("id", "prompt"))
    texts = dict(zip(prompts["id"], prompts["prompt"], strict=True))
    arms, after = [], {}
    for place, (run, name) in enumerate(zip(runs, names, strict=True)):
        for arm, label in zip(run.record.arms, arm_labels(run, run.record.arms), strict=True):
            key = f"{place}/{arm.name}"
            arms.append({"name": key, "label": f"{name}: {label}" if name else label, "run": place})
            after[key] = _answers(run, arm, ids, show_completions)
    told = prompts.drop_duplicates("id").set_index("id").reindex(ids)
    return {
        "forecasts": {
            name: rounded(told[name], digits) for name, digits in FORECASTS.items() if name in told
        }
        or None,
        "prompt": [str(texts.get(name, name)) for name in ids],
        **{name: coded(base[name].fillna("–")) for name in ("domain", "split", "label")},
        "before": _answers(runs[0], runs[0].record.base, ids, show_completions),
        "arms": arms,
        "after": after,
    }


def _answers(run: Run, arm: Arm, ids: pd.Series, show_completions: bool) -> Json:
    rows = arm.last.drop_duplicates("prompt_id").set_index("prompt_id").reindex(ids)
    found: Json = {
        "class": coded(rows["class"].fillna("–")),
        "log_odds": rounded(rows["margin"], DIGITS),
    }
    path = run.record.folder / "arms" / arm.name / "completions.parquet"
    if show_completions and path.is_file() and arm.name != BASE:
        table = read_table(path, ("prompt_id", "completion"))
        said = table.drop_duplicates("prompt_id").set_index("prompt_id")["completion"]
        found["completion"] = [None if pd.isna(text) else str(text) for text in said.reindex(ids)]
    return found
