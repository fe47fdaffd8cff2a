"""What an arm's states say of harm and refusal apart, with the base model's frozen directions."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.runs import CoherenceBounds, Reads, harm_and_refusal_table, kept_rows
from analyses.study.baseline import Baseline
from analyses.study.context import INSTRUCTION, LAST, Context
from interp.activations import Activations
from interp.store import write_table

HARM_TABLE = "harm.parquet"


def write_harm(
    context: Context, baseline: Baseline, states: Activations, scores: pd.DataFrame, name: str
) -> None:
    """``harm.parquet`` of an arm: its directions are fitted on the base's validation prompts.

    Args:
        states: the arm's, at both positions.
        scores: of the arm, with the classes of the kept model's answers.
        name: of the arm.
    """
    ids = context.evaluated["id"]
    before = reads_of(context.base_states, _refused(baseline.scores, ids))
    said = CoherenceBounds.from_base(baseline.scores).applied(kept_rows(scores))
    after = reads_of(states, _refused(said, ids))
    layers = range(context.reference.n_layers)
    table = harm_and_refusal_table(context.evaluated, before, after, layers=layers)
    write_table(context.run.arm(name) / HARM_TABLE, table)


def reads_of(states: Activations, refused: Float[np.ndarray, " prompt"]) -> Reads:
    """A model's states at both positions, and what it refuses."""
    return Reads(states.at(INSTRUCTION).states, states.at(LAST).states, refused)


def _refused(scores: pd.DataFrame, ids: pd.Series) -> Float[np.ndarray, " prompt"]:
    """1, 0 or NaN for every prompt."""
    told = scores.drop_duplicates("prompt_id").set_index("prompt_id")["refused"].reindex(ids)
    return told.astype("Float64").to_numpy(np.float64, na_value=np.nan)
