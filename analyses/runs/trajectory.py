"""An arm's scores as trajectories: each domain's harmful prompts at every scored step.

A trained arm has one more model than its path of training: the kept one, which lies on the path or
on the scaled change from one of its steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.statistics import unit_count

READ = ["prompt_id", "domain", "step", "p_R", "margin", "refused", "cluster"]


def matched_step(scores: pd.DataFrame) -> int:
    """The step of the saved weights; in runs without a mark, the last one with generated text."""
    if "kept" in scores and (kept := scores["kept"].fillna(False).astype(bool)).any():
        return int(scores.loc[kept, "step"].iloc[0])
    with_text = scores.loc[scores["class"].notna(), "step"] if "class" in scores else scores["step"]
    last_with_text = with_text.max() if len(with_text) else 0
    return int(last_with_text or scores["step"].max())


def kept_rows(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of the saved weights, which may lie on the scaled change from their step."""
    at_step = scores[scores["step"] == matched_step(scores)]
    if "scale" not in at_step:
        return at_step
    scale = at_step["scale"].fillna(1)
    return at_step[scale == scale.min()]


def on_path(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows on the path of training: not those of a kept model along the scaled change."""
    return scores[scores["scale"].fillna(1) == 1] if "scale" in scores else scores


@dataclass(frozen=True)
class Trajectory:
    """Scores of one domain's harmful prompts at each step of an arm. Step 0 is the model before."""

    steps: Int[np.ndarray, " step"]
    p_refuse: Float[np.ndarray, "prompt step"]
    log_odds: Float[np.ndarray, "prompt step"]
    p_refuse_kept: Float[np.ndarray, " prompt"]
    log_odds_kept: Float[np.ndarray, " prompt"]
    """Of the kept model, which lies on the path or on the scaled change from one of its steps."""
    refused: Float[np.ndarray, "prompt end"]
    """Whether the text refused, before and in the kept model; NaN where none was generated."""
    clusters: Int[np.ndarray, " prompt"]

    @property
    def base_rate(self) -> float:
        return float(self.p_refuse[:, 0].mean())

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the resampled prompts: the number of clusters minus 1."""
        return unit_count(self.clusters) - 1


def trajectories(scores: pd.DataFrame, split: str) -> dict[str, Trajectory]:
    """The harmful prompts of one split, by domain, from one arm's `scores` table.

    If the table has a column `cluster`, the prompts of a cluster are resampled together. Raises
    `InputError` if step 0 is missing or a prompt was not scored at every step.
    """

    def chosen(rows: pd.DataFrame) -> pd.DataFrame:
        mine = (rows["label"] == "harmful") & (rows["split"] == split)
        return rows.loc[mine, [name for name in READ if name in rows]]

    harmful = chosen(on_path(scores))
    ends = (harmful[harmful["step"] == 0], chosen(kept_rows(scores)))
    prompts = ["domain", "prompt_id"]
    # One reshaping for all domains: pandas needs as long for one domain as for all.
    wide = harmful.pivot(index=prompts, columns="step", values=["p_R", "margin"]).sort_index()
    refused = _at_ends(ends, wide.index, "refused")
    kept = {name: _at_ends(ends, wide.index, name)[:, 1] for name in ("p_R", "margin")}
    named = harmful.drop_duplicates(prompts).set_index(prompts)
    names = named["cluster"].reindex(wide.index).to_numpy() if "cluster" in named else None
    p_refuse, log_odds = (wide[name].to_numpy(dtype=np.float64) for name in ("p_R", "margin"))
    at_steps = wide["p_R"].columns.to_numpy(dtype=np.int64)
    domains, of_domain = np.unique(wide.index.get_level_values("domain"), return_inverse=True)
    found = {}
    for number, domain in enumerate(domains):
        rows = np.flatnonzero(of_domain == number)
        unscored = np.isnan(p_refuse[rows]).all(axis=0)
        scored = ~unscored | unscored.all()
        steps, cells = at_steps[scored], np.ix_(rows, scored)
        if steps[0] != 0:
            raise InputError(f"scores of {domain} start at step {steps[0]}; expected step 0 (base)")
        by_text = np.isnan(log_odds).all()  # no prefixes: refusal is read from text
        if np.isnan(p_refuse[cells]).any() or (not by_text and np.isnan(log_odds[cells]).any()):
            raise InputError(
                f"{domain}: some {split} prompts were not scored at every step; "
                "score the same prompts at each step, or drop the incomplete step"
            )
        found[str(domain)] = Trajectory(
            steps=steps,
            p_refuse=p_refuse[cells],
            log_odds=log_odds[cells],
            p_refuse_kept=kept["p_R"][rows],
            log_odds_kept=kept["margin"][rows],
            refused=refused[rows],
            clusters=np.arange(len(rows)) if names is None else pd.factorize(names[rows])[0],
        )
    return found


def _at_ends(
    ends: tuple[pd.DataFrame, pd.DataFrame], prompts: pd.Index, column: str
) -> Float[np.ndarray, "prompt end"]:
    """A column before and in the kept model; NaN where it has no value."""
    found = np.full((len(prompts), 2), np.nan)
    for place, rows in enumerate(ends):
        if column in rows:
            at = rows.set_index(prompts.names)[column].reindex(prompts)
            # "refused" may be nullable, object or float; its values are 1, 0 or missing.
            found[:, place] = at.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    return found
