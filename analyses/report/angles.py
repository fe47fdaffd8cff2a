"""Each domain's rotation next to the angles between two ways to extract its direction."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analyses.figures import domain_label, title_of
from analyses.report.wording import interval
from analyses.runs import Run, estimate_of, headlines, rows_of


def angles_view(tables: Run) -> list[dict[str, Any]]:
    """A table for every shown plain arm, at the layer at which the target rotated most."""
    found = []
    for headline in headlines(tables.record):
        arm = headline.plain
        rows = rows_of(tables.rotation, arm=arm.name, quantity="angle_degrees")
        if rows.empty or "by_position" not in rows:
            continue
        target = rows[rows["domain"] == arm.concept]
        of_target = (rows if target["value"].isna().all() else target).dropna(subset=["value"])
        if of_target.empty:
            continue
        layer = int(of_target["layer"].iloc[int(of_target["value"].argmax())])
        found.append(
            {
                "title": title_of(headline),
                "layer": layer,
                "rows": [
                    {
                        "domain": domain_label(row["domain"]),
                        "angle": interval(estimate_of(row)),
                        "position": degrees(row["by_position"]),
                        "contrast": degrees(row["by_contrast"]),
                    }
                    for _, row in rows[rows["layer"] == layer].iterrows()
                ],
            }
        )
    return found


def degrees(angle: float) -> str:
    return "–" if pd.isna(angle) else f"{angle:.0f}°"
