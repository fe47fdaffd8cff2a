"""Runs the settings, and writes ``calibration-PART.csv`` and the page ``calibration.md``."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.calibration.settings import GOOD, LIMIT, NOMINAL, Setting

# The modules of each part's settings, in the order of the table.
PARTS = {
    "behaviour": ("proportions", "means", "leakage", "comparisons", "worlds"),
    "representation": ("directions", "maps", "alignments", "patching", "causes"),
}
COLUMNS = ["quantity", "setting", "kind", "rate", "error", "hits", "of", "withheld", "seed"]
# Words of the page for those of the code, from which the seeds follow.
SHOWN = {
    "potency": "source effect", "susceptibility": "target effect", "entanglement": "interaction",
}  # fmt: skip


def settings_of(part: str) -> tuple[Setting, ...]:
    """The settings of one part, in the order of the table."""
    modules = (import_module(f"experiments.calibration.{name}") for name in PARTS[part])
    return tuple(setting for module in modules for setting in module.SETTINGS)


def measured(setting: Setting, replications: int | None = None) -> dict[str, Any]:
    """One row of the table: the rate and its Monte-Carlo standard error."""
    rng = np.random.default_rng(setting.seed)
    tally = setting.run(rng, replications or setting.replications)
    rate = tally.hits / tally.of if tally.of else float("nan")
    error = np.sqrt(rate * (1 - rate) / tally.of) if tally.of else float("nan")
    return {
        "quantity": setting.quantity, "setting": setting.setting, "kind": setting.kind,
        "rate": round(rate, 4), "error": round(float(error), 4), "hits": tally.hits,
        "of": tally.of, "withheld": tally.withheld, "seed": setting.seed,
    }  # fmt: skip


def run_part(
    part: str, folder: Path, quantities: Collection[str] = (), said: Callable[[str], None] = print
) -> pd.DataFrame:
    """Run the settings of one part and put their rows into its CSV; other rows stay.

    Args:
        part: ``behaviour`` or ``representation``.
        folder: of the CSV.
        quantities: only these; all of them if empty.
        said: takes a line for each row.
    """
    settings = settings_of(part)
    path = folder / f"calibration-{part}.csv"
    rows: dict[tuple[str, str], dict[Any, Any]] = {
        (row["quantity"], row["setting"]): row for row in read_rows(path).to_dict("records")
    }
    for setting in settings:
        if not quantities or setting.quantity in quantities:
            row = measured(setting)
            rows[setting.quantity, setting.setting] = row
            said(f"{setting.quantity}, {setting.setting}: {row['rate']} ({row['error']})")
    kept = [rows[s.quantity, s.setting] for s in settings if (s.quantity, s.setting) in rows]
    table = pd.DataFrame(kept, columns=COLUMNS)
    table.to_csv(path, index=False, lineterminator="\n")
    return table


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a part's CSV; none if it does not exist."""
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that are calibrated or not: those with a rate, of a kind with a nominal rate."""
    return table[(table["of"] > 0) & table["kind"].isin(NOMINAL)]


def calibrated(table: pd.DataFrame) -> np.ndarray:
    """Whether each row's rate lies in the range that counts as calibrated."""
    low, high = (table["kind"].map(lambda kind, end=end: GOOD[kind][end]) for end in (0, 1))
    return table["rate"].between(low, high).to_numpy()


def beyond_limit(table: pd.DataFrame) -> np.ndarray:
    """Whether each row is worse than the limit: coverage below, or error above it."""
    limit = table["kind"].map(LIMIT)
    is_coverage = table["kind"] == "coverage"
    return np.where(is_coverage, table["rate"] < limit, table["rate"] > limit)


def markdown(table: pd.DataFrame) -> str:
    """A summary line and a Markdown table; ± is the Monte-Carlo standard error."""
    known = judged(table)
    share = calibrated(known).mean()
    lines = [
        f"{len(known)} settings: {share:.0%} in the range that counts as calibrated, "
        f"{int(beyond_limit(known).sum())} beyond the limit.",
        "",
        "| Quantity | Setting | Kind | Rate (%) | ± | Replications | Too few (%) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        rate, error = (f"{100 * row[name]:.1f}" if row["of"] else "" for name in ("rate", "error"))
        total = row["of"] + row["withheld"]
        lines.append(
            f"| {_shown(row['quantity'])} | {row['setting']} | {row['kind']} | {rate} | {error} "
            f"| {total} "
            f"| {100 * row['withheld'] / total:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _shown(quantity: str) -> str:
    for word, shown in SHOWN.items():
        quantity = quantity.replace(word, shown)
    return quantity
