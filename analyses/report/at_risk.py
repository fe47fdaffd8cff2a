"""The prompts that a forecast expects to lose their refusal, for the report."""

from __future__ import annotations

from typing import Any

from analyses.figures import domain_label
from analyses.runs import PROMPT_FORECAST, RunRecord
from interp.store import read_json, read_table

SHOWN = 15
# As `spillover predict` writes them.
FORECAST, TABLE = "forecast.json", "prompts.parquet"
COLUMNS = ("prompt", "domain", *PROMPT_FORECAST)


def at_risk_view(record: RunRecord) -> dict[str, Any]:
    """The target, the counts and the prompts most at risk; empty without a forecast by prompt.

    A prompt is at risk if its probability to flip at 90% forgetting is above 1/2. The target's own
    prompts are left out.
    """
    folder = record.folder
    if not ((folder / FORECAST).is_file() and (folder / TABLE).is_file()):
        return {}
    concept = read_json(folder / FORECAST, ("concept",))["concept"]
    told = read_table(folder / TABLE)
    if not set(COLUMNS) <= set(told.columns):
        return {}
    others = told[(told["domain"] != concept) & (told["log_odds"] > 0)]
    at_risk = others[others["flip_90"] > 0.5]
    order = others.sort_values(["flip_90", "forecast"], ascending=False)
    rows = [
        {
            "prompt": str(row["prompt"]),
            "domain": domain_label(row["domain"]),
            "log_odds": f"{row['log_odds']:.1f}",
            "forecast": f"{row['forecast']:.2f}",
            "flip_50": f"{row['flip_50']:.0%}" if row["flip_50"] == row["flip_50"] else "–",
            "flip_90": f"{row['flip_90']:.0%}" if row["flip_90"] == row["flip_90"] else "–",
        }
        for _, row in order.head(SHOWN).iterrows()
    ]
    return {
        "concept": domain_label(concept),
        "refused": len(others),
        "at_risk": len(at_risk),
        "reaches_90": bool(others["flip_90"].notna().any()),
        "rows": rows,
    }
