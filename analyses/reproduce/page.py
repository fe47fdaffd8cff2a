"""Write the tables, figures and page of a reproduction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analyses.figures import domain_label, write_results
from analyses.report import decimal, inlined, interval, write_page
from analyses.reproduce.choice import RULE
from analyses.reproduce.comparison import ARM_COLUMNS, MMLU
from analyses.reproduce.figures import reproduction_drawings
from analyses.reproduce.plan import PaperArm
from analyses.reproduce.protocol import UTILITY_POINTS
from analyses.reproduce.published import SOURCE
from analyses.reproduce.result import Result, to_json
from analyses.reproduce.silences import SILENCES
from analyses.reproduce.words import (
    MEANS,
    arm_label,
    column_label,
    derived_lines,
    estimate_in,
    left_out_words,
    short,
    signed,
)
from interp.store import package_version

PAGE = "reproduction.html"


def write_reproduction(found: Result, folder: Path) -> Path:
    """Write ``reproduction.json``, tables, figures and ``reproduction.html``; return its path.

    Tables: `reproduction.csv` (a row per published row and column), `derived.csv`,
    `entanglement.csv` and `grid.csv`.
    """
    tables = {
        "reproduction": found.scores,
        "derived": found.derived,
        "entanglement": found.layers,
        "grid": found.grid,
    }
    drawn = reproduction_drawings(found)
    write_results(folder, tables=tables, facts={"reproduction": to_json(found)}, drawings=drawn)
    view = reproduction_view(found) | {
        "drawings": {drawing.name: drawing for drawing in drawn},
        "images": inlined(folder, [drawing.name for drawing in drawn]),
    }
    return write_page(folder / PAGE, "reproduce/reproduction.html.jinja", view)


def reproduction_view(found: Result) -> dict[str, Any]:
    """The values for the template."""
    return {
        "source": SOURCE,
        "model": found.model_name,
        "version": package_version(),
        "scorer": found.config.get("scorer"),
        "command": found.config.get("command"),
        "prompts": found.config.get("prompts"),
        "whose": found.whose,
        "own": found.asked.known is not None,
        "departures": found.asked.departures,
        "left_out": left_out_words(found.plan.left_out),
        "tables": [
            _scores_view(str(model), part)
            for model, part in found.scores.groupby("published_model", sort=False)
        ],
        "derived": _derived_view(found.derived),
        "layer": found.layer,
        "entanglement": _entanglement_view(found),
        "skill": _skill_view(found),
        "arms": [_arm_view(found, one) for one in found.chosen],
        "grid": _grid_view(found.grid) if found.asked.whole_grid else [],
        "points": len(found.grid),
        "rule": RULE,
        "silences": SILENCES,
    }


def _scores_view(model: str, part: pd.DataFrame) -> dict[str, Any]:
    rows = []
    for key, cells in part.groupby(ARM_COLUMNS[1:], sort=False, dropna=False):
        reasons = [r for r in cells["reason"] if isinstance(r, str)]
        why = "" if cells["value"].notna().any() or not reasons else reasons[0]
        shown = [
            {
                "target": cell["column"] == key[0],
                "measured": interval(estimate_in(cell), 0),
                "published": short(cell["published"]),
                "difference": signed(estimate_in(cell, "difference")),
                # The interval of the difference excludes 0.
                "apart": bool(cell["difference_low"] > 0 or cell["difference_high"] < 0),
            }
            for cell in cells.to_dict("records")
        ]
        rows.append({"label": arm_label(*key), "why": why, "cells": shown})
    columns = [column_label(name) for name in part["column"].drop_duplicates()]
    return {"model": model, "columns": columns, "rows": rows}


def _derived_view(table: pd.DataFrame) -> dict[str, Any]:
    lines = derived_lines(table)
    parts = [
        {
            "quantity": quantity,
            "means": MEANS[quantity],
            "rows": [line for line in lines if line["quantity"] == quantity],
        }
        for quantity in dict.fromkeys(line["quantity"] for line in lines)
    ]
    return {"models": list(table["published_model"].drop_duplicates()), "parts": parts}


def _entanglement_view(found: Result) -> list[dict[str, Any]]:
    """R3 at the paper's layer: the unlearned concepts against every domain."""
    rows = found.layers[found.layers["layer"] == found.layer]
    view = []
    for concept in found.plan.study.concepts:
        mine = rows[rows["source"] == concept]
        view.append(
            {
                "concept": domain_label(concept),
                "stability": decimal(float(mine["stability"].iloc[0])),
                "explained": f"{float(mine['explained'].iloc[0]):.0%}",
                "cells": [
                    {
                        "domain": domain_label(str(row["target"])),
                        "cosine": decimal(row["cosine"], 3),
                        "null": f"{decimal(row['null_low'], 3)} to {decimal(row['null_high'], 3)}",
                        "outside": not row["null_low"] <= row["cosine"] <= row["null_high"],
                    }
                    for row in mine.to_dict("records")
                    if row["target"] != concept
                ],
            }
        )
    return view


def _skill_view(found: Result) -> list[str]:
    """Rank correlation of R3 with leakage at the paper's layer."""
    rows = found.skill[found.skill["layer"] == found.layer].dropna()
    return [
        f"{arm_label(row['concept'], row['objective'], False)}: {decimal(row['spearman'])}"
        for row in rows.to_dict("records")
    ]


def _arm_view(found: Result, one: PaperArm) -> dict[str, Any]:
    [row] = found.grid[found.grid["arm"] == one.plan.name].to_dict("records")
    training = one.plan.settings
    return {
        "label": arm_label(*one.arm),
        "setting": one.setting.words,
        "deflections": found.plan.deflections[one.concept],
        "steps": training.max_steps,
        "kept": int(row["kept_step"]),
        "retained": ", ".join(domain_label(domain) for domain in one.plan.retain) or "–",
        "utility_lost": decimal(100 * row["utility_lost"], 1),
        "within": bool(row["within"]),
        "mmlu_lost": _mmlu_lost(found, one),
    }


def _mmlu_lost(found: Result, one: PaperArm) -> dict[str, Any] | None:
    """Lost points, and whether the paper's stopping rule allows them; None without MMLU."""
    rows = found.scores[found.scores["column"] == MMLU]
    before = rows.loc[rows["concept"].isna(), "value"]
    wanted = (rows["concept"] == one.concept) & (rows["objective"] == one.objective)
    after = rows.loc[wanted & (rows["retained"] == one.retained), "value"]
    lost = float(before.iloc[0] - after.iloc[0])
    return {"points": decimal(lost, 1), "within": lost < UTILITY_POINTS} if lost == lost else None


def _grid_view(grid: pd.DataFrame) -> list[dict[Any, Any]]:
    shown = grid.assign(**{name: grid[name].map(short) for name in ("validation", "test")})
    return shown.rename(columns={"best_on_test": "best"}).to_dict("records")
