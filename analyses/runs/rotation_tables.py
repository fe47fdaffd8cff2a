"""Comparison of an arm's states with the base model's, by domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp.directions import ESTIMATORS, DirectionSet
from interp.similarity import Rotation, cosine_map, rotation
from interp.statistics import MINIMUM_UNITS, Contrast, joined_numbers, unit_numbers
from unlearning.data import controls

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from interp.activations import Activations

FEWEST_PROMPTS = 8
ROW = ["domain", "layer", "quantity"]


def contrast_rows(
    prompts: pd.DataFrame, evaluated: pd.DataFrame
) -> Mapping[str, tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """Per domain: row numbers in ``evaluated`` of its prompts and controls, and which are harmful.

    No two domains share a control or its text, because shared noise would bias their cosine.
    Domains with fewer than 8 rows on a side, or fewer than 4 units of them, are left out.
    """
    if evaluated.empty:
        return {}
    text = evaluated.set_index("id")["prompt"]
    seen: set[str] = set()
    place = pd.Series(np.arange(len(evaluated)), index=evaluated["id"])
    units = linked_units(evaluated)
    shares = [controls(prompts, split) for split in sorted(set(evaluated["split"]))]
    found = {}
    for domain in shares[0].rows:
        offered = [i for share in shares for i in share.rows[domain]["id"]]
        benign = [i for i in offered if i in text.index and text[i] not in seen]
        seen.update(text[benign])
        mine = (evaluated["domain"] == domain) & (evaluated["label"] == "harmful")
        harmful = list(evaluated.loc[mine, "id"])
        rows = place[[*harmful, *benign]].to_numpy(dtype=np.int64)
        sides = np.split(units[rows], [len(harmful)])
        separate = min(len(np.unique(side)) for side in sides)
        if min(map(len, sides)) >= FEWEST_PROMPTS and separate >= MINIMUM_UNITS:
            found[domain] = rows, np.arange(len(rows)) < len(harmful)
    return found


def contrasts(
    prompts: pd.DataFrame, evaluated: pd.DataFrame, states: Activations
) -> dict[str, Contrast]:
    """A contrast of harmful prompts and disjoint benign controls for every domain."""
    units = linked_units(evaluated)
    return {
        domain: Contrast.from_labels(states.states[rows], positive, units[rows].tolist())
        for domain, (rows, positive) in contrast_rows(prompts, evaluated).items()
    }


def linked_units(prompts: pd.DataFrame) -> NDArray[np.int64]:
    """A number per prompt; those of one ``pair``, ``group`` of near-duplicates or text share it.

    The columns are optional, and the values of the first two may be missing.
    """
    count = len(prompts)
    shared = {name: prompts[name].tolist() for name in ("pair", "group") if name in prompts}
    if "prompt" in prompts:
        shared["prompt"] = prompts["prompt"].str.strip().tolist()
    linked = np.concatenate(
        [
            number * count + unit_numbers(values, count)
            for number, values in enumerate([None, *shared.values()])
        ]
    )
    rows = np.tile(np.arange(count), len(shared) + 1)
    return joined_numbers(rows, linked, (len(shared) + 1) * count)[:count]


def write_directions(
    folder: Path,
    found: Mapping[str, Contrast],
    layers: Sequence[int],
    provenance: Mapping[str, object],
    estimator: str = "mean_difference",
) -> None:
    """``directions.safetensors`` (by the estimator of this name), and principal components.

    Without a contrast, as of a short table of prompts, it writes neither.
    """
    if not found:
        return
    for fitting, name in (
        (estimator, "directions"),
        ("first_principal_component", "principal_components"),
    ):
        fitted = DirectionSet.fitted(
            ESTIMATORS.find(fitting).quick(), found, layers=layers, provenance=provenance
        )
        fitted.save(folder / f"{name}.safetensors")


def cosine_table(found: Mapping[str, Contrast], layers: Sequence[int]) -> pd.DataFrame:
    """Cross-fitted cosines between the domains' directions, a row per layer and ordered pair."""
    table = cosine_map(found, layers=list(layers)).to_dataframe().drop(columns=["draws", "no_null"])
    return table.rename(columns={"label_a": "domain_a", "label_b": "domain_b"})


def rotations(
    before: Mapping[str, Contrast], after: Mapping[str, Contrast], layers: Sequence[int]
) -> dict[str, Rotation]:
    """Every domain's direction before and after, on the same prompts."""
    return {
        domain: rotation(contrast, after[domain], same_prompts=True, layers=list(layers))
        for domain, contrast in before.items()
        if domain in after
    }


def rotation_table(found: Mapping[str, Rotation]) -> pd.DataFrame:
    """A row per domain, layer and quantity; the null bands are those of sampling noise."""
    tables = [change.to_dataframe().assign(domain=domain) for domain, change in found.items()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def against_control_arms(table: pd.DataFrame, controls: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A rotation table with null bands that also span the intervals of the control arms' tables.

    As :func:`interp.similarity.against_controls`, from the tables of the arms' folders.
    """
    nulls = [control for control in controls if len(control)]
    if table.empty or not nulls:
        return table
    bands = pd.concat(nulls).groupby(ROW).agg(low=("low", "min"), high=("high", "max"))
    bands = bands.reindex(pd.MultiIndex.from_frame(table[ROW]))
    return table.assign(
        null_low=np.fmin(table["null_low"], bands["low"].to_numpy()),
        null_high=np.fmax(table["null_high"], bands["high"].to_numpy()),
    )
