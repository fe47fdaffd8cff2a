"""The results of a reproduction, and its ``reproduction.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.reproduce.choice import RULE
from analyses.reproduce.comparison import ARM_COLUMNS
from analyses.reproduce.entanglement import layer_of
from analyses.reproduce.plan import PaperArm, Planned, ProtocolOptions
from analyses.reproduce.protocol import LAYER
from analyses.reproduce.published import SOURCE
from analyses.reproduce.silences import SILENCES


@dataclass(frozen=True)
class Result:
    """Everything that the page shows.

    Attributes:
        asked, plan: the options and the plan.
        chosen: the arm that stands for each row of the table.
        grid: :func:`analyses.reproduce.choice.grid_table`.
        scores: :func:`analyses.reproduce.comparison.scores_table`.
        derived: :func:`analyses.reproduce.comparison.derived_table`.
        layers: R3 between the concepts at every layer (0-based).
        skill: rank correlation of R3 with leakage, by layer.
        n_layers: of the model.
        config: of the run.
    """

    asked: ProtocolOptions
    plan: Planned
    chosen: tuple[PaperArm, ...]
    grid: pd.DataFrame
    scores: pd.DataFrame
    derived: pd.DataFrame
    layers: pd.DataFrame
    skill: pd.DataFrame
    n_layers: int
    config: Mapping[str, Any]

    @property
    def layer(self) -> int:
        """The paper's layer 5 in this model, 0-based."""
        return layer_of(LAYER, self.n_layers)

    @property
    def model_name(self) -> str:
        """The name of the measured model."""
        return str(self.config.get("model_name") or self.asked.model)

    @property
    def whose(self) -> str:
        """A sentence that names the model of the published numbers."""
        if self.asked.known is not None:
            return (
                f"The published numbers are of this model, {self.asked.known.name}, on the paper's "
                "test prompts, by the paper's judge."
            )
        return (
            f"{self.model_name} is none of the paper's models: the published numbers belong to "
            "Mistral-7B-Instruct-v0.3 and Qwen2.5-7B-Instruct, other models on other prompts. "
            "Neither a difference from them nor agreement shows whether the paper reproduces."
        )


def to_json(found: Result) -> dict[str, Any]:
    """``reproduction.json``: rows of the table with their cells, and the rest as records."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for cell in _records(found.scores):
        arm = {name: cell[name] for name in ARM_COLUMNS}
        row = rows.setdefault(tuple(arm.values()), {**arm, "columns": {}})
        row["columns"][cell["column"]] = {
            "published": cell["published"],
            "measured": _number(cell),
            "difference": {
                "value": cell["difference"],
                "low": cell["difference_low"],
                "high": cell["difference_high"],
            },
        }
    derived = [
        {name: row[name] for name in ("quantity", *ARM_COLUMNS, "published")}
        | {"measured": _number(row)}
        for row in _records(found.derived)
    ]
    return {
        "paper": SOURCE,
        "model": found.asked.model,
        "published_is_of_this_model": found.asked.known is not None,
        "whose": found.whose,
        "unit": "percent refused; differences in points, measured less published",
        "arms": {
            one.plan.name: {
                "concept": one.concept,
                "objective": one.objective,
                "retained": list(one.plan.retain),
                "setting": asdict(one.setting),
            }
            for one in found.chosen
        },
        "grid": {"points": len(found.grid), "rule": RULE if found.asked.whole_grid else None},
        "departures": list(found.asked.departures),
        "left_out": [asdict(one) for one in found.plan.left_out],
        "deflections": dict(found.plan.deflections),
        "rows": list(rows.values()),
        "derived": derived,
        "entanglement": {
            "layer": found.layer,
            "layers": _records(found.layers),
            "spearman_with_drops": _records(found.skill),
        },
        "silences": [asdict(one) for one in SILENCES],
    }


def _number(row: Mapping[str, Any]) -> dict[str, Any]:
    number = {name: row[name] for name in ("value", "low", "high", "n")}
    return number | ({"reason": row["reason"]} if row["reason"] else {})


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values: None for what is missing or not finite."""
    finite = table.astype(object).where(table.notna(), None).replace([np.inf, -np.inf], None)
    return [{str(k): v for k, v in row.items()} for row in finite.to_dict("records")]
