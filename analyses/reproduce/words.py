"""A reproduction in words: names of rows and columns, and the table of the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from analyses.figures import domain_label
from analyses.report import decimal, interval
from analyses.reproduce.comparison import (
    ARM_COLUMNS,
    ASYMMETRY,
    BASE_RATE,
    CROSS,
    IN_POINTS,
    LEAK,
    MMLU,
    OVER_REFUSAL,
    PROFILE,
    RECOVERY,
)
from analyses.reproduce.plan import LeftOut
from analyses.reproduce.result import Result
from analyses.runs import objective_title
from interp.statistics import Estimate

MEANS = {
    LEAK: "mean loss of the other domains per point of the target's loss",
    RECOVERY: "share of the other domains' loss that retain data prevent; above 1, more than all",
    CROSS: "points that safety loses after unlearning cybersecurity, and the reverse",
    ASYMMETRY: "cybersecurity's loss after unlearning safety, minus the reverse; points",
    BASE_RATE: "rank correlation of base rates with losses (Spearman, log-odds)",
    PROFILE: "correlation of NPO's and fine-tuning's drops over the other domains (Pearson)",
}


def arm_label(concept: Any, objective: Any, retained: Any) -> str:
    """`Safety: NPO + retain`; `Before` for the aligned model."""
    named = [domain_label(concept)] if isinstance(concept, str) else []
    if isinstance(objective, str):
        named.append(objective_title(objective) + (" + retain" if retained else ""))
    return ": ".join(named) or "Before"


def column_label(column: str) -> str:
    """The label of a domain or another column of the table."""
    return {OVER_REFUSAL: "Benign refused", MMLU: "MMLU"}.get(column, domain_label(column))


def short(value: float, digits: int = 1) -> str:
    """A percentage in the paper's format; a dash if undefined."""
    return decimal(value, digits).removesuffix(".0") if math.isfinite(value) else "–"


def estimate_in(row: Any, prefix: str = "") -> Estimate:
    """A row's number with its interval."""
    value, before = (prefix, f"{prefix}_") if prefix else ("value", "")
    return Estimate(float(row[value]), float(row[f"{before}low"]), float(row[f"{before}high"]), 0)


def signed(estimate: Estimate) -> str:
    """`+4 (−3 to 11)`."""
    if not estimate.defined:
        return "–"
    text = interval(estimate, 0)
    return text if text.startswith(("−", "0")) else f"+{text}"


def reproduction_text(found: Result, page: object) -> str:
    """The table, its derived quantities and the path of the page."""
    blocks = [found.whose]
    for key, part in found.scores.groupby("published_model", sort=False):
        model = str(key)
        title = f"refused, %: published of {model} / measured" if model else "refused, %: measured"
        blocks.append(f"{title}\n{_wide(part).to_string()}")
    lines = pd.DataFrame(derived_lines(found.derived)).drop(columns="reason")
    lines.insert(len(lines.columns) - 1, "measured", lines.pop("measured"))
    blocks.append(lines.to_string(index=False, na_rep="–"))
    blocks += [f"left out: {one}" for one in left_out_words(found.plan.left_out)]
    return "\n\n".join([*blocks, str(page)])


def derived_lines(table: pd.DataFrame) -> list[dict[str, str]]:
    """A line per quantity and arm: published for each model, and measured."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in table.to_dict("records"):
        arm = arm_label(row["concept"], row["objective"], row["retained"])
        mine = interval(estimate_in(row), 0 if row["quantity"] in IN_POINTS else 2)
        line = lines.setdefault((row["quantity"], arm), {"quantity": row["quantity"], "arm": arm})
        if row["published_model"]:
            theirs = short(row["published"], 0 if row["quantity"] in IN_POINTS else 2)
            line[row["published_model"]] = theirs
        line |= {
            "measured": mine,
            "reason": row["reason"] if isinstance(row["reason"], str) else "",
        }
    return list(lines.values())


def left_out_words(left_out: Sequence[LeftOut]) -> list[str]:
    """The arms left out, with the reasons."""
    return [f"{arm_label(*one.arm)} ({one.why})" for one in left_out]


def _wide(part: pd.DataFrame) -> pd.DataFrame:
    """Arms by columns, `published / measured` in each cell."""
    labels = [arm_label(*key) for key in part[ARM_COLUMNS[1:]].itertuples(index=False)]
    cells = [
        f"{short(theirs)} / {short(mine)}"
        for theirs, mine in zip(part["published"], part["value"], strict=True)
    ]
    columns = [column_label(name) for name in part["column"]]
    table = pd.DataFrame({"arm": labels, "column": columns, "cell": cells})
    wide = table.pivot(index="arm", columns="column", values="cell")
    wide.index.name = wide.columns.name = None
    return wide.loc[list(dict.fromkeys(labels)), list(dict.fromkeys(columns))]
