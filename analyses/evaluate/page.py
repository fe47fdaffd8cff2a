"""Writes all files of an evaluation, its page last.

In ``summary.json`` every number is ``{"value", "low", "high", "n"}``, null where it is undefined.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analyses.evaluate.estimates import units_of
from analyses.evaluate.figures import evaluation_drawings
from analyses.evaluate.findings import MODEL, NUMBER, Findings
from analyses.evaluate.measures import MEANS, RATES, Measures, measured
from analyses.evaluate.plan import Inputs
from analyses.evaluate.view import completions_view, evaluation_facts, evaluation_view
from analyses.figures import save_drawings
from analyses.report import inlined, write_page
from analyses.runs import estimate_of, write_manifest
from interp.statistics import Estimate, share_of
from interp.store import write_csv, write_json, write_table
from unlearning.scoring import MEASURES

Nested = dict[str, Any]


def write_evaluation(
    findings: Findings, inputs: Inputs, folder: Path, *, show_completions: bool = False
) -> tuple[Path, Measures]:
    """Write tables, figures, ``summary.json`` and ``report.html``; return the report's path.

    Files of an earlier evaluation of the same model with other options are removed.

    Args:
        show_completions: put answers on the page.
    """
    measures = measured(findings)
    write_table(folder / "prompts.parquet", inputs.prompts)
    write_table(folder / "scores.parquet", findings.scores)
    for name, table in evaluation_tables(measures).items():
        path = folder / f"{name}.csv"
        if table.empty:
            path.unlink(missing_ok=True)
            continue
        write_csv(path, table)
    write_json(folder / "summary.json", evaluation_summary(measures))
    write_json(folder / "config.json", evaluation_facts(inputs))
    write_manifest(
        folder,
        hashes=dict(findings.fingerprints),
        self_check=dict(findings.checks),
        scorers={name: scorer.version for name, scorer in inputs.panel.items()},
        seconds=findings.seconds,
    )
    drawn = tuple(evaluation_drawings(measures))
    save_drawings(drawn, folder / "figures")
    names = {drawing.name for drawing in drawn}
    for path in (folder / "figures").iterdir():
        if path.stem not in names:
            path.unlink()  # of the same evaluation with other options
    view = evaluation_view(inputs, measures) | {
        "drawings": {drawing.name: drawing for drawing in drawn},
        "images": inlined(folder, names),
        "completions": completions_view(inputs, measures) if show_completions else [],
    }
    return write_page(folder / "report.html", "evaluate/evaluation.html.jinja", view), measures


def evaluation_tables(measures: Measures) -> dict[str, pd.DataFrame]:
    """The tables to write, by file name; disagreeing answers have ids and readings only."""
    rows = measures.disagreements
    columns = [name for name in rows if str(name).startswith(("refused_", "class_"))]
    return {
        "numbers": measures.numbers,
        "differences": measures.differences,
        "agreement": measures.agreement,
        "disagreements": rows[["prompt_id", "domain", "label", "kind", *columns]],
        "divergence": measures.divergence,
        "texts": measures.texts,
        "tasks": measures.tasks,
    }


def evaluation_summary(measures: Measures) -> Nested:
    """The evaluation as nested plain values; ``model`` and ``base`` have the same form."""
    findings = measures.findings
    readout = findings.readout
    mine = findings.scores[findings.scores["role"] == MODEL]
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
        "disagreeing": share_of(
            mine["prompt_id"].isin(measures.disagreements["prompt_id"]).to_numpy(), units_of(mine)
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
    """Rows of a table of numbers, nested by the values of its other columns."""
    names = keys or [str(name) for name in table if name not in NUMBER]
    found: Nested = {}
    for row in table.to_dict("records"):
        inner = found
        for name in names[:-1]:
            inner = inner.setdefault(str(row[name]) or "any", {})
        inner[str(row[names[-1]])] = estimate_of(row).to_json()
    return found
