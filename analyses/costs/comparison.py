"""The plans of finished runs against their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.costs.estimate import size, span
from analyses.costs.outcome import MANIFEST, PLAN
from interp.errors import InputError
from interp.store import read_json

# Quantities, and what of the plan limits them.
QUANTITIES = {"seconds": "seconds_at_most", "device_bytes": None, "main_bytes": None}


def compared_plans(folders: Sequence[Path]) -> pd.DataFrame:
    """A row for each run and quantity: ``run, quantity, expected, actual, ratio, at_most``.

    ``ratio`` is expected over actual. Quantities without a plan or an outcome have no row.

    Raises:
        InputError: a folder has no manifest with a plan and an outcome.
    """
    rows = []
    for folder in folders:
        path = folder / MANIFEST
        plan = (read_json(path, ()) if path.is_file() else {}).get(PLAN) or {}
        expected, actual = plan.get("expected") or {}, plan.get("actual") or {}
        if not expected or not actual:
            raise InputError(
                f"{path} holds no plan with its outcome; only commands of version 0.2 or later "
                "that train or generate write them, when they end"
            )
        for name, limit in QUANTITIES.items():
            if expected.get(name) and actual.get(name):
                rows.append(
                    {
                        "run": str(folder),
                        "quantity": name,
                        "expected": expected[name],
                        "actual": actual[name],
                        "ratio": expected[name] / actual[name],
                        "at_most": expected.get(limit) if limit else None,
                    }
                )
    return pd.DataFrame(
        rows, columns=["run", "quantity", "expected", "actual", "ratio", "at_most"]
    ).astype({"at_most": float})


def comparison_text(table: pd.DataFrame) -> str:
    """The table in lines."""
    lines = []
    for run, rows in table.groupby("run", sort=False):
        lines.append(str(run))
        for row in rows.itertuples():
            words = span if row.quantity == "seconds" else size
            line = (
                f"  {str(row.quantity).replace('_bytes', ' memory')}: expected "
                f"{words(float(str(row.expected)))}, took {words(float(str(row.actual)))}, ratio "
                f"{float(str(row.ratio)):.2f}"
            )
            if row.quantity == "seconds" and float(str(row.actual)) > float(str(row.at_most)):
                line += f"; more than the {span(float(str(row.at_most)))} at most"
            lines.append(line)
    return "\n".join(lines)
