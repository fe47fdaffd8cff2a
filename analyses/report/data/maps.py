"""Heatmaps of a run: cosines, rotation and gain by layer, and the leakage matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analyses.figures import domain_label, null_of_rotation, outside_null
from analyses.report.data.embedding import coded, rounded
from analyses.runs import Arm, Run

Json = dict[str, Any]
NUMBERS = ("value", "low", "high", "null_low", "null_high")
NO_DIRECTION = "the split halves do not agree on a direction"
QUANTITIES = {
    "L_90": "leakage at 90% forgetting (L.9)",
    "L_50": "leakage at 50% forgetting (L.5)",
    "area": "leakage area (A)",
    "drop": "loss of {} in the kept model",
    "text_drop": "loss of generated refusals",
}


@dataclass(frozen=True)
class Axis:
    """One column of a long table as an axis of a heatmap: its values and their labels."""

    column: str
    title: str
    keys: Sequence[Any]
    labels: Sequence[str]
    slider: bool = False


def cells_of(table: pd.DataFrame, axes: Sequence[Axis], digits: int, *, otherwise: str) -> Json:
    """The numbers of a long table in the order of the axes, the last axis fastest.

    Args:
        table: one row per cell: the axes' columns, ``value``, ``low``, ``high``, ``n`` and, where
            known, ``null_low``, ``null_high``, ``clear`` (outside the null) and ``reason``.
        axes: of the heatmap.
        digits: decimals that the page prints; the page holds no others.
        otherwise: the reason of a cell without a value that has none in ``reason``.
    """
    index = pd.MultiIndex.from_product([axis.keys for axis in axes])
    rows = table.set_index([axis.column for axis in axes]).reindex(index)
    cells: Json = {
        name: rounded(rows[name], digits) for name in NUMBERS if name in rows and len(rows)
    }
    cells["n"] = [None if n is None else int(n) for n in rounded(rows["n"], 0)]
    clear = rows["clear"] if "clear" in rows else pd.Series(True, rows.index)
    cells["clear"] = [int(flag is True or flag == 1) for flag in clear]
    said = rows["reason"] if "reason" in rows else pd.Series(None, rows.index, dtype=object)
    why = said.where(said.notna() & (said != ""), otherwise).where(rows["value"].isna(), "")
    return cells | {"reason": coded(why)}


def heatmap(
    name: str,
    title: str,
    caption: str,
    table: pd.DataFrame,
    axes: Sequence[Axis],
    *,
    limits: tuple[float, float],
    otherwise: str,
    digits: int = 4,
    unit: str = "",
) -> Json:
    """A heatmap as the page draws it; an axis with a slider begins at two thirds of its values."""
    return {
        "name": name,
        "title": title,
        "caption": caption,
        "axes": [
            vars(axis) | {"keys": [str(key) for key in axis.keys], "labels": list(axis.labels)}
            for axis in axes
        ],
        "cells": cells_of(table, axes, digits, otherwise=otherwise),
        "limits": list(limits),
        "digits": digits,
        "unit": unit,
        "start": next((2 * len(axis.keys) // 3 for axis in axes if axis.slider), 0),
    }


def domains_axis(run: Run, column: str) -> Axis:
    """The run's domains with their readable names."""
    names = run.record.domains
    return Axis(column, "domain", names, [domain_label(name) for name in names])


def arms_axis(run: Run, arms: Sequence[Arm]) -> Axis:
    """Arms by what they unlearn."""
    return Axis("arm", "arm", [arm.name for arm in arms], arm_labels(run, arms))


def arm_labels(run: Run, arms: Sequence[Arm]) -> list[str]:
    """`Safety: NPO`, with the seed where the run has several."""
    seeds = len({arm.seed for arm in run.record.arms}) > 1
    return [
        (f"{domain_label(arm.concept)}: " if arm.concept else "")
        + arm.label
        + (f", seed {arm.seed}" if seeds and arm.objective else "")
        for arm in arms
    ]


def layers_axis(table: pd.DataFrame) -> Axis:
    """The layers of a table, which the reader chooses with a slider."""
    layers = [int(layer) for layer in sorted(table["layer"].unique())]
    return Axis("layer", "layer", layers, [str(layer) for layer in layers], slider=True)


def cosine_heatmap(run: Run) -> Json | None:
    """Cosines between the domains' directions in the base model, by layer."""
    table = run.cosine
    if table.empty:
        return None
    corrected = ", corrected for all cells and layers" if "p_corrected" in table else ""
    table = table.assign(clear=outside_null(table))
    return heatmap(
        "cosine",
        "Cosines between domains before",
        "Cross-fitted cosines between the domains' directions in the base model. Grey, in "
        f"brackets: inside the null of permuted labels{corrected} (the band is that of one cell). "
        "The diagonal carries no information.",
        table.assign(value=table["value"].where(table["defined"].astype(bool))),
        [layers_axis(table), domains_axis(run, "domain_a"), domains_axis(run, "domain_b")],
        limits=(-1, 1),
        otherwise=NO_DIRECTION,
    )


def rotation_heatmap(run: Run, quantity: str) -> Json | None:
    """Rotation (degrees) or gain of every domain's direction, by layer and arm."""
    table = run.rotation
    table = table if table.empty else table[table["quantity"] == quantity]
    if table.empty:
        return None
    arms = [arm for arm in run.record.arms if arm.name in set(table["arm"])]
    table = table.assign(clear=outside_null(table))
    angle = quantity == "angle_degrees"
    return heatmap(
        "rotation" if angle else quantity,
        "Rotation by layer" if angle else "Gain by layer",
        ("Angle" if angle else "Length ratio") + " between each domain's direction before and "
        "after, cross-fitted over split halves. Grey, in brackets: inside the null, which is "
        f"{null_of_rotation(run)}.",
        table.assign(value=table["value"].where(table["defined"].astype(bool))),
        [layers_axis(table), arms_axis(run, arms), domains_axis(run, "domain")],
        limits=(0, max(10.0, _largest(table["value"]))) if angle else _around_one(table),
        digits=2 if angle else 4,
        unit="°" if angle else "",
        otherwise=NO_DIRECTION,
    )


def _around_one(table: pd.DataFrame) -> tuple[float, float]:
    reach = max(0.1, _largest((table["value"] - 1).abs()))
    return (1 - reach, 1 + reach)


def _largest(values: pd.Series) -> float:
    """The largest finite value, or 0."""
    return max((value for value in rounded(values, 4) if value is not None), default=0.0)


def leakage_heatmap(run: Run) -> Json | None:
    """Lost refusal by arm and domain; the reader chooses the quantity."""
    table = run.leakage
    if table.empty:
        return None
    table = table[table["quantity"].isin(QUANTITIES)]
    shown = QUANTITIES | {"drop": QUANTITIES["drop"].format(run.what_is_lost)}
    curves = table[table["quantity"].isin(["L_90", "L_50", "area"])]
    names = [
        name
        for name in QUANTITIES
        if name in set((table if curves["value"].notna().any() else _without(table))["quantity"])
    ]
    return heatmap(
        "leakage",
        "The leakage matrix",
        "Rows: trained or compared models. Columns: the domain whose refusal is read. Grey, in "
        "brackets: the 95% interval contains 0. A click, or Enter, opens the pair.",
        table.assign(clear=~((table["low"] <= 0) & (table["high"] >= 0))),
        [
            Axis("quantity", "quantity", names, [shown[name] for name in names]),
            arms_axis(run, run.record.arms),
            domains_axis(run, "domain"),
        ],
        limits=(-1, 1),
        otherwise="this arm unlearns no domain, so it has no forgetting level",
    )


def _without(table: pd.DataFrame) -> pd.DataFrame:
    """Without the quantities that need a curve."""
    return table[table["quantity"].isin(["drop", "text_drop"])]
