"""`summary.json`: every number as ``{"value", "low", "high", "n"}``, null where it is undefined."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from analyses.evaluate.findings import MODEL, NUMBER, Findings
from analyses.evaluate.measures import MEANS, RATES, Measures
from analyses.report import estimate_of
from interp.statistics import Estimate, rate_of
from unlearning.scoring import MEASURES

Nested = dict[str, Any]


def evaluation_summary(findings: Findings, measures: Measures) -> Nested:
    """The evaluation as nested plain values; ``model`` and ``base`` are built alike."""
    found: Nested = {
        "scorer": findings.headline,
        "scorers": list(findings.readings),
        **{role: _of_role(findings, measures, role) for role in findings.roles},
        "margin": {
            "valid": findings.margin.valid,
            "verdict": findings.margin.verdict,
            "auc": findings.margin.auc.to_json(),
            "openers": findings.margin.openers_text,
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
    for name, table in (
        ("difference", measures.differences),
        ("divergence", measures.divergence),
        ("texts", measures.texts),
        ("tasks", measures.tasks),
    ):
        if len(table):
            found[name] = _nested(table)
    return found


def _of_role(findings: Findings, measures: Measures, role: str) -> Nested:
    table = measures.numbers[measures.numbers["role"] == role]
    by_headline = table[table["scorer"] == findings.headline]
    shares = by_headline[by_headline["quantity"].str.startswith("share:")]
    shares = shares.assign(quantity=shares["quantity"].str.removeprefix("share:"))
    rates = table[table["quantity"] == "refusal_rate"]
    order = ["prompts", "group"]
    return {
        "refusal_rate": _nested(rates[rates["scorer"] == findings.headline], order),
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
        reason = row["reason"] if isinstance(row["reason"], str) else None
        inner[str(row[names[-1]])] = replace(estimate_of(row), reason=reason).to_json()
    return found
