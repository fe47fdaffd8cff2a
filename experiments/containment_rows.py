"""Containment over worlds as rows by prompt: what was planned, what was measured, and its table.

``manifest.json`` names the seeds, the frozen recipe's hash and every arm before the first model is
trained. ``arms.parquet`` has a row per arm; ``rows.parquet`` has the scores of the base models, and
of each arm the refusal probabilities on its path and all scores of its kept model, for test prompts
and for the target's validation prompts. :func:`methods_of` makes the table from them; an arm that
has no result counts as one whose target does not comply.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.contain import Design
from analyses.contain.outcomes import kept_by, methods_table, pool_splits
from analyses.runs import BASE, Arm, RunRecord
from analyses.runs.trajectory import kept_rows, on_path
from unlearning.organism import recipe_of

KEY = ["method", "examples"]
ON_PATH = ["prompt_id", "split", "domain", "label", "kind", "step", "scale", "p_R"]
OF_KEPT = ["p_C", "p_O", "class", "refused", "nll", "repetition"]
DECIMALS = 4


def planned(recipe: str, designs: Mapping[int, Design]) -> dict[str, Any]:
    """What will be made in each world, by seed, and the hash of the recipe that is frozen.

    The arms of a world are each method with each of its amounts of examples (null: all, or none to
    choose) on each choice of held-out domains.
    """
    first, *_ = designs.values()
    arms = [one.containment for one in first.arms({}) if one.containment is not None]
    return {
        "recipe": recipe,
        "frozen": recipe_of(recipe).digest,
        "concept": first.concept,
        "weights": list(first.weights),
        "methods": {
            method: list(dict.fromkeys(arm.examples for arm in arms if arm.method == method))
            for method in first.methods
        },
        "held_out": {
            str(seed): [list(held) for _, held in design.splits] for seed, design in designs.items()
        },
    }


def rows_of(
    record: RunRecord, compared: Collection[str], seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows and arms of one finished study: the plain arm, and those that its table compares."""
    arms = [arm for arm in record.arms if not arm.retain or arm.name in compared]
    (target,) = {arm.concept for arm in arms}
    parts = [_of_base(record.base.scores), *(_of_arm(arm) for arm in arms)]
    table = pd.concat(parts, ignore_index=True)
    validation = (table["domain"] == target) & (table["label"] == "harmful")
    table = table[(table["split"] == "test") | ((table["split"] == "validation") & validation)]
    numbers = table.select_dtypes("float64").columns
    rounded = table[numbers].round(DECIMALS).astype("float32")
    described = [
        {
            "arm": arm.name,
            "retain": list(arm.retain or ()),
            "weight": arm.retain_weight,
            **(arm.config.get("containment") or {}),
        }
        for arm in arms
    ]
    return table.assign(**rounded, world=seed), pd.DataFrame(described).assign(world=seed)


def _of_base(scores: pd.DataFrame) -> pd.DataFrame:
    return scores.reindex(columns=[*ON_PATH, *OF_KEPT, "margin"]).assign(arm=BASE, kept=False)


def _of_arm(arm: Arm) -> pd.DataFrame:
    """After step 0, which is the base model's."""
    kept = arm.scores.index.isin(kept_rows(arm.scores).index)
    path = arm.scores.index.isin(on_path(arm.scores).index) & (arm.scores["label"] == "harmful")
    found = arm.scores.reindex(columns=ON_PATH).join(arm.scores.loc[kept, OF_KEPT])
    found = found.assign(arm=arm.name, kept=kept)
    return found[(path | kept) & (found["step"] > 0)]


def methods_of(rows: pd.DataFrame, arms: pd.DataFrame, manifest: Mapping[str, Any]) -> pd.DataFrame:
    """The table of methods in every planned world, with columns ``world`` and ``concept``."""
    keys = [(name, amount) for name, amounts in manifest["methods"].items() for amount in amounts]
    wanted = pd.DataFrame(keys, columns=KEY).astype({"examples": "float64"})
    tables = []
    for seed, held_out in manifest["held_out"].items():
        here, made = (table[table["world"] == int(seed)] for table in (rows, arms))
        found = _compared(here, made, manifest["concept"]).drop(columns="splits")
        table = wanted.assign(splits=len(held_out)).merge(found, "left", KEY)
        table["complied"] = table["complied"].fillna(0).astype(int)
        tables.append(table.assign(world=f"contain-{seed}", concept=manifest["concept"]))
    return pd.concat(tables, ignore_index=True)


def _compared(rows: pd.DataFrame, arms: pd.DataFrame, concept: str) -> pd.DataFrame:
    """The table of the methods that were made in one world; empty without the plain arm."""
    if arms.empty or arms["method"].notna().all():
        return pd.DataFrame(columns=[*KEY, "complied", "splits"], dtype="float64")
    scores = dict(iter(rows.groupby("arm", sort=False)))
    base = scores[BASE]
    start = base.assign(margin=np.nan)  # arms keep none
    made = []
    for _, row in arms.iterrows():
        made.append(_arm(row, pd.concat([start, scores[str(row["arm"])]]), concept))
    (plain,) = (arm for arm in made if not arm.retain)
    contained = [arm for arm in made if arm.retain]
    record = RunRecord(Path(), {}, {}, Arm(BASE, {}, base, None), tuple(made), (), None)
    table = methods_table(pool_splits(kept_by(record, contained, plain)))
    return table.astype({"examples": "float64"})


def _arm(row: pd.Series, scores: pd.DataFrame, concept: str) -> Arm:
    config = {"concept": concept, "retain": list(row["retain"]), "retain_weight": row["weight"]}
    if isinstance(row["method"], str):
        examples = None if np.isnan(row["examples"]) else int(row["examples"])
        how = {"method": row["method"], "examples": examples, "split": int(row["split"])}
        config["containment"] = how
    return Arm(row["arm"], config, scores, None)
