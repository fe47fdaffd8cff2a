r"""Which refused prompts flipped, against what was forecast for each before training.

A prompt that the base model refuses (log-odds above 0) *flips* at forgetting level τ if its
log-odds are below 0 where the target has lost τ of its refusal. The level is read on validation
prompts, the prompts are test prompts, and values between two scored steps are linear in the level,
as for L_τ. The target's own prompts are left out: at 90% nearly all of them flip.

Compared are, each known before training:

* ``forecast``: the predicted log-odds m_i − s_τ f_i (:mod:`analyses.predict.by_prompt`)
* ``slope``: f_i alone
* ``domain mean and log-odds``: the same as ``forecast`` with the mean slope of i's domain
* ``domain mean``: that mean alone, over the domain's training prompts
* ``base log-odds``: −m_i
* ``TF-IDF neighbour``: cosine to the nearest prompt of the forget set; words and weights come from
  the training prompts

AUROC is the probability that a prompt that flipped had the higher value. *Within cells* it counts
pairs of one cell (domain and label) only, so a value of the domain alone has .5. The null permutes
the values within cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from analyses.predict.by_prompt import FORECAST, LEVELS, PREDICTORS, flip_column, nats_at
from analyses.predict.prompt_calibration import calibration, reliability_table, with_recalibrated
from analyses.runs import (
    Arm,
    Run,
    at_crossing,
    on_path,
    relative_drop,
    running_maximum,
    trajectories,
)
from interp.errors import InputError
from interp.statistics import auc_of
from interp.store import read_json, read_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERMUTATIONS = 1000
SAME_MODEL = 0.25  # nats by which base log-odds of one model may differ: half precision in batches

Values = Float[np.ndarray, " prompt"]
Flipped = Bool[np.ndarray, " prompt"]
Cells = Int[np.ndarray, " prompt"]


@dataclass(frozen=True)
class PromptSkill:
    """How well a forecast says which refused prompts flip.

    Attributes:
        table: a row per arm, forgetting level and predictor: ``n`` refused prompts, ``flipped`` of
            them; AUROC ``value`` with its 95% interval over prompts (``low``, ``high``); ``within``
            cells, its ``p`` and ``null_high`` (95th percentile) by permutation within cells. NaN
            where all prompts, or none, flipped.
        prompts: a row per arm, level and refused prompt: every predictor, ``probability``, ``nats``
            (s_τ), the ``recalibrated`` probability and the ``base rate``, and whether it
            ``flipped``.
        calibration: the share that flipped by bin of the probability, over all arms
            (:func:`analyses.predict.prompt_calibration.calibration`).
        reliability: Brier score and calibration error of each kind of probability
            (:func:`analyses.predict.prompt_calibration.reliability_table`).
    """

    table: pd.DataFrame
    prompts: pd.DataFrame
    calibration: pd.DataFrame
    reliability: pd.DataFrame

    def plot(self) -> Figure:
        """AUROC of every predictor, and the calibration of the probabilities."""
        from analyses.predict.prompt_figures import prompt_skill_figure

        return prompt_skill_figure(self.table, self.calibration)


def forecast_skill(
    run: Run | str | Path, forecast: str | Path, *, seed: int = 0, split: str = "test"
) -> PromptSkill:
    """Compare a forecast by prompt with the trained arms of a run of the same model.

    Args:
        run: a run in which the concept was unlearned without a retain set.
        forecast: the folder of ``spillover predict`` for that concept.
        seed: of the permutations.
        split: of the prompts whose flips count.

    Raises:
        InputError: the folder has no forecast by prompt; the run has no such arm, has other
            prompts, or reads refusal from text; or no arm reaches a forgetting level.
    """
    run = run if isinstance(run, Run) else Run(run)
    concept, told = read_prompt_forecast(forecast)
    arms = [arm for arm in run.record.arms if arm.concept == concept and _is_plain(arm)]
    if not arms:
        raise InputError(
            f"{run.record.folder} has no arm without a retain set that unlearned {concept} along "
            "scored steps; give the run in which it was unlearned"
        )
    parts = []
    for arm in arms:
        for level in LEVELS:
            asked, known = (
                judged(told, concept, flips(arm, level, part), level)
                for part in (split, "validation")
            )
            parts.append(with_recalibrated(asked, known).assign(arm=arm.name, level=level))
    prompts = pd.concat(parts, ignore_index=True)
    if prompts.empty:
        raise InputError(f"no arm of {concept} reaches a forgetting level of {LEVELS[0]:.0%}")
    return PromptSkill(
        skill_table(prompts, seed=seed), prompts, calibration(prompts), reliability_table(prompts)
    )


def read_prompt_forecast(folder: str | Path) -> tuple[str, pd.DataFrame]:
    """The concept and the prompts of a forecast's folder.

    Raises:
        InputError: it has no forecast by prompt.
    """
    folder = Path(folder)
    if not (folder / "forecast.json").is_file():
        raise InputError(f"{folder} has no forecast.json; give a folder of spillover predict")
    stored = read_json(folder / "forecast.json", ("concept",))
    told = read_table(folder / "prompts.parquet", ("id", "prompt", "domain", "split", "label"))
    if FORECAST not in told:
        why = stored.get("why_no_prompts") or "it was made by an earlier version"
        raise InputError(f"{folder} has no forecast for single prompts: {why}")
    return str(stored["concept"]), told


def flips(arm: Arm, level: float, split: str) -> pd.DataFrame:
    """``prompt_id, domain, label, unit, before, after, flipped`` of the refused prompts.

    ``unit`` is the same for near-duplicates, and in all arms. The table is empty where the target
    does not reach the level.

    Raises:
        InputError: the run has no log-odds.
    """
    scores = arm.scores
    if scores["margin"].isna().all():
        raise InputError(f"{arm.name} reads refusal from text, so no prompt has log-odds")
    target = trajectories(scores, "validation")[str(arm.concept)]
    reached = running_maximum(relative_drop(target.p_refuse.mean(axis=0)))
    along = on_path(scores)
    along = along[(along["label"] == "harmful") & (along["split"] == split)]
    along = along[along["step"].isin(target.steps) & (along["domain"] != arm.concept)]
    wide = along.pivot(index="prompt_id", columns="step", values="margin").dropna()
    values = wide.to_numpy(dtype=np.float64)
    after = at_crossing(np.broadcast_to(reached, values.shape), values, level)
    named = along.drop_duplicates("prompt_id").set_index("prompt_id").loc[wide.index]
    table = named[["domain", "label"]].assign(
        unit=named.get("cluster", named.index),
        before=values[:, 0], after=after, flipped=after < 0,
    )  # fmt: skip
    refused = (table["before"] > 0) & np.isfinite(table["after"])
    return table[refused].reset_index()


def judged(told: pd.DataFrame, concept: str, found: pd.DataFrame, level: float) -> pd.DataFrame:
    """The refused prompts with the value of every predictor; a higher value says it will flip.

    Args:
        told: the forecast by prompt.
        concept: its target.
        found: of :func:`flips`.
        level: the forgetting level.

    Raises:
        InputError: the forecast lacks one of these prompts, or is of another model.
    """
    harmful = told[told["label"] == "harmful"]
    if missing := set(found["prompt_id"]) - set(harmful["id"]):
        raise InputError(
            f"the forecast lacks {len(missing)} prompts of the run, {min(missing)} among them; "
            "make it for the run's own prompts"
        )
    train = harmful[harmful["split"] == "train"]
    target = train[train["domain"] == concept]
    lost = nats_at(target["log_odds"].to_numpy(), target[FORECAST].to_numpy(), level)
    rows = harmful.set_index("id").loc[found["prompt_id"]]
    apart = np.abs(rows["log_odds"].to_numpy() - found["before"].to_numpy())
    if len(apart) and np.median(apart) > SAME_MODEL:
        raise InputError(
            f"the base log-odds of the forecast and of the run differ by {np.median(apart):.2g} "
            "nats (median over prompts); give a forecast of the run's own base model and prompts"
        )
    means = rows["domain"].map(train.groupby("domain")[FORECAST].mean()).to_numpy()
    m, f = rows["log_odds"].to_numpy(), rows[FORECAST].to_numpy()
    return found.assign(
        **{
            FORECAST: lost * f - m,
            "slope": f,
            "domain mean and log-odds": lost * means - m,
            "domain mean": means,
            "base log-odds": -m,
            "TF-IDF neighbour": _nearest(train["prompt"], target["prompt"], rows["prompt"]),
            "probability": rows[flip_column(level)].to_numpy(),
            "nats": lost,
        }
    )


def skill_table(prompts: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """AUROC of every predictor, for each arm and level; see :class:`PromptSkill`."""
    rng = np.random.default_rng(seed)
    rows = []
    for (arm, level), part in prompts.groupby(["arm", "level"], sort=False):
        flipped = part["flipped"].to_numpy(dtype=bool)
        cells = part.groupby(["domain", "label"]).ngroup().to_numpy()
        for name in PREDICTORS:
            values = part[name].to_numpy(dtype=np.float64)
            found = auc_of(values, flipped, part["unit"].to_numpy())
            null = permuted_within(values, flipped, cells, rng)
            within = auroc_within(values, flipped, cells)
            rows.append(
                {
                    "arm": arm, "level": level, "predictor": name,
                    "n": len(part), "flipped": int(flipped.sum()),
                    "value": found.value, "low": found.low, "high": found.high, "within": within,
                    "p": (1 + (null >= within).sum()) / (1 + len(null))
                    if np.isfinite(within) else np.nan,
                    "null_high": np.quantile(null, 0.95) if len(null) else np.nan,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def auroc_within(values: Values, flipped: Flipped, cells: Cells) -> float:
    """AUROC over pairs of the same cell; NaN where no cell has both classes."""
    total = wins = 0.0
    for cell in np.unique(cells):
        here = cells == cell
        pairs = int(flipped[here].sum()) * int((~flipped[here]).sum())
        if pairs:
            total += pairs
            wins += pairs * auc_of(values[here], flipped[here]).value
    return wins / total if total else float("nan")


def permuted_within(
    values: Values, flipped: Flipped, cells: Cells, rng: np.random.Generator
) -> Float[np.ndarray, " permutation"]:
    """:func:`auroc_within` of values permuted within cells; empty where it is undefined."""
    mixed = [cell for cell in np.unique(cells) if len(set(flipped[cells == cell])) == 2]
    total, wins = 0.0, np.zeros(PERMUTATIONS)
    for cell in mixed:
        here = cells == cell
        ranks, positive = rankdata(values[here]), int(flipped[here].sum())
        drawn = rng.permuted(np.tile(ranks, (PERMUTATIONS, 1)), axis=1)[:, :positive]
        wins += drawn.sum(axis=1) - positive * (positive + 1) / 2
        total += positive * (len(ranks) - positive)
    return wins / total if total else np.empty(0)


def _nearest(fitted_on: pd.Series, forget: pd.Series, asked: pd.Series) -> Values:
    """Cosine of each prompt to its nearest forget prompt."""
    if asked.empty:
        return np.empty(0)
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer().fit(fitted_on)
    near = vectors.transform(asked) @ vectors.transform(forget).T
    return np.asarray(near.max(axis=1).todense()).ravel()


def _is_plain(arm: Arm) -> bool:
    return arm.matched and not arm.retain and not arm.control
