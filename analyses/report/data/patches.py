"""Patching by ``spillover explain``: the share of a loss that each place restores, by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analyses.figures import domain_label
from analyses.report.data.maps import Axis, arm_labels, heatmap, layers_axis
from analyses.runs import Run
from interp.errors import FileError, first_line

WEIGHTS = "weights of the layer"
NAMES = {
    "fraction": "value",
    "fraction_low": "low",
    "fraction_high": "high",
    "control_fraction_low": "null_low",
    "control_fraction_high": "null_high",
    "stands_out": "clear",
}
NEEDED = ("layer", "component", "position", "fraction", "fraction_low", "fraction_high", "n")


def patching_heatmap(run: Run) -> dict[str, Any] | None:
    """Shares restored by patches, by pair, layer, place (rows) and component (columns).

    Patches outside the layers, of the embedding for instance, are in the files of ``causes/`` only.
    """
    tables = [
        _patches(run, arm.name, path.stem, label)
        for arm, label in zip(run.record.arms, arm_labels(run, run.record.arms), strict=True)
        for path in sorted((run.record.folder / "causes" / arm.name).glob("*.json"))
    ]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if table.empty:
        return None

    def axis(column: str, title: str) -> Axis:
        keys = list(table[column].drop_duplicates())
        return Axis(column, title, keys, [str(key).replace("_", " ") for key in keys])

    return heatmap(
        "patching",
        "Patching: where the loss is",
        "Share of the lost refusal log-odds that returns when one place of the model after gets "
        "the state or the weights of the model before. Grey, in brackets: random edits of the "
        "same size do as much, or the patch works in one direction only.",
        table,
        [
            axis("pair", "pair"),
            layers_axis(table),
            axis("position", "place"),
            axis("component", "component"),
        ],
        limits=(-1, 1),
        otherwise="not patched",
    )


def _read(path: Path) -> pd.DataFrame:
    """A table of patches.

    Raises:
        FileError: the file is incomplete or of another version.
    """
    try:
        table = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise FileError(
            f"{path} is not a whole CSV file ({first_line(error)}); give `spillover explain` again"
        ) from error
    if missing := [name for name in NEEDED if name not in table]:
        raise FileError(
            f"{path} has no column {', '.join(missing)}; give `spillover explain` again"
        )
    return table


def _patches(run: Run, arm: str, domain: str, label: str) -> pd.DataFrame:
    folder = run.record.folder / "causes" / arm
    found = []
    for kind in ("states", "weights"):
        path = folder / f"{domain}-{kind}.csv"
        if path.is_file():
            found.append(_read(path))
    if not found:
        return pd.DataFrame()
    table = pd.concat(found, ignore_index=True).dropna(subset=["layer"])
    table = table[table["head"].isna()] if "head" in table else table
    table = table.rename(columns=NAMES)
    table["position"] = table["position"].fillna(WEIGHTS)
    return table.assign(pair=f"{label} → {domain_label(domain)}", layer=table["layer"].astype(int))
