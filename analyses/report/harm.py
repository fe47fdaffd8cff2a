"""Harm and refusal apart, for the report: does a model that answers still see harm?"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.figures import domain_label, title_of
from analyses.report.wording import interval
from analyses.runs import HARM, Run, headlines
from interp.statistics import Estimate


def harm_view(tables: Run) -> list[dict[str, Any]]:
    """A table for every shown plain arm: each domain's AUROC before and after, and the verdict."""
    if tables.harm.empty:
        return []
    found = []
    chosen = tables.harm[tables.harm["chosen"].astype(bool)]
    for headline in headlines(tables.record):
        of_arm = chosen[chosen["arm"] == headline.plain.name]
        rows = of_arm[of_arm["probe"] == HARM]
        told = tables.harm.loc[tables.harm["arm"] == headline.plain.name, ["probe", "note"]]
        notes = [
            f"{probe} direction: {note}"
            for probe, note in told[told["note"] != ""].drop_duplicates().itertuples(index=False)
        ]
        if of_arm.empty and not notes:
            continue
        refusal = of_arm[of_arm["probe"] != HARM].set_index("domain")
        found.append(
            {
                "title": title_of(headline),
                "layer": int(rows["layer"].iloc[0]) if len(rows) else None,
                "notes": notes,
                "rows": [
                    {
                        "domain": domain_label(row["domain"]),
                        "before": _auc(row, "before", "before_low", "before_high"),
                        "after": _auc(row, "value", "low", "high"),
                        "refused": f"{row['refused_after']:.2f}",
                        "refusal": _auc(refusal.loc[row["domain"]], "value", "low", "high")
                        if row["domain"] in refusal.index
                        else "–",
                        "verdict": row["verdict"],
                    }
                    for _, row in rows.iterrows()
                ],
            }
        )
    return found


def _auc(row: pd.Series, value: str, low: str, high: str) -> str:
    if pd.isna(row[value]):
        return "–"
    return interval(Estimate(row[value], row[low], row[high], int(row["n"])))
