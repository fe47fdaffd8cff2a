"""The plans of finished runs against their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analyses.costs.estimate import size, span
from analyses.costs.outcome import MANIFEST, PLAN
from interp.errors import InputError
from interp.store import read_json

# What is compared, in words.
QUANTITIES = {"seconds": "time", "device_bytes": "device memory", "main_bytes": "main memory"}


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
        for name in QUANTITIES:
            if expected.get(name) and actual.get(name):
                rows.append(
                    {
                        "run": str(folder),
                        "quantity": name,
                        "expected": expected[name],
                        "actual": actual[name],
                        "ratio": expected[name] / actual[name],
                        "at_most": expected.get(f"{name}_at_most"),
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
            expected, actual, ratio, most = (
                float(str(value)) for value in (row.expected, row.actual, row.ratio, row.at_most)
            )
            line = (
                f"  {QUANTITIES[str(row.quantity)]}: expected {words(expected)}, took "
                f"{words(actual)}, ratio {ratio:.2f}"
            )
            beyond = actual > most  # False where there is no bound
            lines.append(line + f"; more than the {words(most)} at most" * beyond)
    return "\n".join(lines)
