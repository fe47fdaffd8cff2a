"""`summary.json`: every number as ``{"value", "low", "high", "n"}``, null where it is undefined."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.evaluate.findings import MODEL, NUMBER
from analyses.evaluate.measures import MEANS, RATES, Measures, with_reason
from interp.statistics import Estimate, rate_of
from unlearning.scoring import MEASURES

Nested = dict[str, Any]


def evaluation_summary(measures: Measures) -> Nested:
    """The evaluation as nested plain values; ``model`` and ``base`` are built alike."""
    findings = measures.findings
    readout = findings.readout
    found: Nested = {
        "scorer": findings.headline,
        "scorers": list(findings.readings),
        **{role: _of_role(measures, role) for role in findings.roles},
        "margin": {
            "valid": readout.valid,
            "verdict": readout.verdict,
            "auc": readout.auc.to_json(),
            "openers": readout.prefix_texts,
        },
        "agreement": [
            {
                "first": row["first"],
                "second": row["second"],
                **{
                    name: Estimate(
                        row[name], row[f"{name}_low"], row[f"{name}_high"], int(row["n"])
                    ).to_json()
                    for name in MEASURES
                },
            }
            for row in measures.agreement.to_dict("records")
        ],
        "disagreeing": rate_of(
            len(measures.disagreements), int((findings.scores["role"] == MODEL).sum())
        ).to_json(),
        "seconds": round(findings.seconds, 1),
    }
    tables = {
        "difference": measures.differences,
        "divergence": measures.divergence,
        "texts": measures.texts,
        "tasks": measures.tasks,
    }
    return found | {name: _nested(table) for name, table in tables.items() if len(table)}


def _of_role(measures: Measures, role: str) -> Nested:
    table = measures.numbers[measures.numbers["role"] == role]
    by_headline = table[table["scorer"] == measures.findings.headline]
    shares = by_headline[by_headline["quantity"].str.startswith("share:")]
    shares = shares.assign(quantity=shares["quantity"].str.removeprefix("share:"))
    rates = table[table["quantity"] == "refusal_rate"]
    order = ["prompts", "group"]
    return {
        "refusal_rate": _nested(rates[rates["scorer"] == measures.findings.headline], order),
        "refusal_rate_by_scorer": _nested(rates, ["scorer", *order]),
        "class_share": _nested(shares, [*order, "quantity"]),
        **{
            name: _nested(table[table["quantity"] == name], order)
            for name in (*RATES.values(), *MEANS.values())
            if (table["quantity"] == name).any()
        },
    }


def _nested(table: pd.DataFrame, keys: list[str] | None = None) -> Nested:
    """Rows of a table of numbers by the values of its other columns, one inside the other."""
    names = keys or [str(name) for name in table if name not in NUMBER]
    found: Nested = {}
    for row in table.to_dict("records"):
        inner = found
        for name in names[:-1]:
            inner = inner.setdefault(str(row[name]) or "any", {})
        inner[str(row[names[-1]])] = with_reason(row).to_json()
    return found
