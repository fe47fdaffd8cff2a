"""`summary.json`: the numbers of a run, each with its interval and its count of prompts.

Undefined numbers are null and have a `reason`; nothing is imputed. The tables at the top of the
folder are rebuilt at the same time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analyses.report.readout import readout_view
from analyses.runs import BASE, RECOVERY_SETS, Arm, Run, TargetOutcome, estimate_of, rows_of
from interp.statistics import Estimate
from interp.store import write_json

PER_DOMAIN = ("refusal_rate", "answer_rate", "nll", "repetition", "other_mass", "margin")
LEAKAGE = ("L_50", "L_90", "area")

Json = dict[str, Any]


def write_summary(folder: str | Path) -> Run:
    """Rebuild the CSV tables and `summary.json` of the run in `folder`; return the tables.

    Raises `InputError` if `folder` does not hold a run with a scored base model.
    """
    tables = Run(folder)
    tables.write()
    write_json(tables.record.folder / "summary.json", summarise(tables))
    return tables


def summarise(tables: Run) -> Json:
    """The content of `summary.json`."""
    record = tables.record
    return {
        "scorer": record.config.get("scorer"),
        "planted": record.config.get("planted"),
        "base": {**_behaviour(tables, BASE), "readout": readout_view(record)},
        "arms": [_arm(tables, arm) for arm in record.arms],
        "unfinished": list(record.unfinished),
        "failed": dict(record.failed),
        "cosine_similarity": _cosine(tables.cosine),
        "seconds": record.manifest.get("seconds"),
    }


def number(row: pd.Series) -> Json:
    """One row of a table as `{"value", "low", "high", "n"}`."""
    if row.get("defined") is not None and not row["defined"]:
        return Estimate.undefined("undefined", int(row["n"])).to_json()
    return estimate_of(row).to_json()


def _by(rows: pd.DataFrame, column: str) -> Json:
    return {str(row[column]): number(row) for _, row in rows.iterrows()}


def _behaviour(tables: Run, arm: str) -> Json:
    rows = rows_of(tables.behaviour, arm=arm)
    harmful = rows_of(rows, label="harmful")
    content = {name: _by(rows_of(harmful, quantity=name), "group") for name in PER_DOMAIN}
    refused = rows_of(rows, label="benign", quantity="refusal_rate")
    return {**content, "benign_refusal_rate": _by(refused, "group")}


def _arm(tables: Run, arm: Arm) -> Json:
    row = rows_of(tables.arms, arm=arm.name).iloc[0]
    leaks = rows_of(tables.leakage, arm=arm.name)
    return {
        "name": arm.name,
        "concept": arm.concept,
        "objective": arm.objective,
        "retain": list(arm.retain) if arm.retain else None,
        "retain_weight": arm.retain_weight,
        "seed": arm.seed,
        "reached": bool(row["reached"]) if arm.concept else None,
        "collapsed": row["outcome"] == str(TargetOutcome.DEGENERATE) if arm.concept else None,
        "outcome": row["outcome"] if arm.concept else None,
        "low_base": tables.low_base(arm.concept) is not None if arm.concept else None,
        **_behaviour(tables, arm.name),
        **{name: _by(rows_of(leaks, quantity=name), "domain") for name in LEAKAGE},
        "recovery": {name: _recovery(tables.recovery, arm.name, name) for name in RECOVERY_SETS},
        "rotation_degrees": _rotation(tables.rotation, arm.name),
    }


def _recovery(table: pd.DataFrame, arm: str, name: str) -> Json | None:
    rows = rows_of(table, arm=arm, set=name, quantity="recovery")
    return number(rows.iloc[0]) if len(rows) and rows.iloc[0]["domains"] > 0 else None


def _rotation(table: pd.DataFrame, arm: str) -> Json:
    rows = rows_of(table, arm=arm, quantity="angle_degrees")
    groups = rows.groupby("domain") if len(rows) else ()
    return {str(domain): _by(layers, "layer") for domain, layers in groups}


def _cosine(table: pd.DataFrame) -> Json:
    if table.empty:
        return {}
    return {
        str(layer): {str(a): _by(others, "domain_b") for a, others in rows.groupby("domain_a")}
        for layer, rows in table.groupby("layer")
    }
