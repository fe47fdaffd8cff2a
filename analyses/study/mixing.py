"""An arm's training data: its forget set and retain groups, from the base model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.study.baseline import Baseline, describe_study
from analyses.study.context import Context
from analyses.study.deflected import require_deflections
from analyses.study.plan import ArmPlan
from interp.store import read_table, write_json
from unlearning.deflections import examples, with_own_ids, with_preferred
from unlearning.losses import for_forgetting
from unlearning.training import Example, Mixture

BENIGN = "benign"
RANKING = Path("containment") / "ranking.parquet"  # in a run's folder


def mixture_of(context: Context, baseline: Baseline, arm: ArmPlan) -> Mixture:
    """The arm's forget set and retain groups, from the base model's own answers."""
    settings = arm.settings
    if arm.concept is None:
        forget = _answered(context, baseline)
    else:
        if context.pairs is None:
            refused = require_deflections(context, baseline, arm.concept)
        else:
            refused = with_own_ids(context.reference, context.pairs, say=context.progress.say)
        if for_forgetting(settings.objective).on_pairs:
            refused = with_preferred(refused, settings.objective)
        forget = examples(context.reference, refused)
    retain = {
        name: examples(context.reference, rows)
        for name, rows in _retained(context, baseline, arm).items()
    }
    if retain:
        retain[BENIGN] = _answered(context, baseline)
    return Mixture(forget, retain, ratio=settings.retain_ratio, seed=settings.seed)


def _retained(context: Context, baseline: Baseline, arm: ArmPlan) -> dict[str, pd.DataFrame]:
    """Deflections of the retained domains: all, in equal shares, or as a method chooses."""
    contained = arm.containment
    if contained is None or (contained.how.retains and contained.examples is None):
        return {domain: require_deflections(context, baseline, domain) for domain in arm.retain}
    if not contained.how.retains:
        return {}
    pool = pool_of(context, baseline, arm.retain)
    ranking = read_ranking(context.run.folder)
    rows = chosen(pool, ranking, contained.method, contained.examples)
    return dealt(rows, len(arm.retain))


def _answered(context: Context, baseline: Baseline) -> list[Example]:
    """Answers to benign training prompts, all kinds mixed."""
    rows = baseline.responses
    wanted = (rows["split"] == "train") & (rows["label"] == "benign") & (rows["class"] == "answer")
    found = rows[wanted]
    if found.empty:
        return []
    count = min(len(found), 4 * (context.plan.deflection_count or len(found)))
    return examples(context.reference, found.sample(count, random_state=0))


def with_answered_benign(context: Context, baseline: Baseline) -> Context:
    """The study without control and retained arms, where the base answers no benign prompt.

    They train on its answers to benign training prompts.
    """
    arms = context.plan.arms
    left = tuple(one for one in arms if not (one.training and (one.control or one.retain)))
    if left == arms or _answered(context, baseline):
        return context
    context.progress.say(
        "left out: control and retained arms, because the base model answers no benign training "
        "prompt"
    )
    found = context.changed(plan=replace(context.plan, arms=left))
    write_json(found.run.folder / "config.json", describe_study(found))
    return found


def pool_of(context: Context, baseline: Baseline, domains: Sequence[str]) -> pd.DataFrame:
    """Training deflections of ``domains``, of each as many as the plan asks for.

    Raises:
        InputError: a domain has fewer than 32.
    """
    found = [require_deflections(context, baseline, domain) for domain in domains]
    return pd.concat(found, ignore_index=True)


def chosen(
    pool: pd.DataFrame, ranking: pd.DataFrame, method: str, count: int | None
) -> pd.DataFrame:
    """The ``count`` rows of ``pool`` with the largest scores; all rows if ``count`` is None."""
    scores = ranking.set_index("id")[method].loc[pool["id"]].to_numpy()
    order = np.argsort(-scores, kind="stable")[: count or len(pool)]
    return pool.iloc[order].reset_index(drop=True)


def dealt(rows: pd.DataFrame, groups: int) -> dict[str, pd.DataFrame]:
    """The rows in as many equal groups as there are retained domains.

    Chosen examples then have the same weight, and the same place in a batch, as equal shares.
    """
    parts = {f"chosen-{i + 1}": rows.iloc[i::groups] for i in range(groups)}
    return {name: part for name, part in parts.items() if len(part)}


def read_ranking(folder: Path) -> pd.DataFrame:
    """The ranking of retained examples: ``id``, and each method's score."""
    return read_table(folder / RANKING)
