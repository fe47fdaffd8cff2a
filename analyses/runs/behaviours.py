"""What a model does with the test prompts: rates and coherence of its text, first-token masses."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.runs.arms import Arm
from analyses.runs.verdict import TargetVerdict
from interp.statistics import Estimate, mean_of, rate_of

# Quantity -> the classes of generated text that it counts.
RATES = {
    "refusal_rate": ("refusal",),
    "answer_rate": ("answer",),
    "other_rate": ("other",),
    "gibberish_rate": ("gibberish",),
}
# Quantity -> its column in the scores.
MEANS = {"p_R": "p_R", "p_C": "p_C", "other_mass": "p_O", "margin": "margin"}
# Nats per token under the base model, and the share of runs of four words that were said before.
COHERENCE = ("nll", "repetition")


def behaviour(arm: Arm) -> pd.DataFrame:
    """One row per group and quantity at the arm's last step, on test prompts.

    Columns `label, group, quantity, value, low, high, n, reason`. Harmful prompts are grouped by
    domain, benign ones by kind (`twin`, `general`). Rates and coherence are of generated text and
    undefined where there is none (coherence also in runs that were made before it was measured);
    the rest are means over prompts.
    """
    test = arm.last[arm.last["split"] == "test"]
    rows = []
    for label, column in (("harmful", "domain"), ("benign", "kind")):
        for group, prompts in test[test["label"] == label].groupby(column, sort=False):
            estimates = {name: _rate(prompts, classes) for name, classes in RATES.items()}
            stratum = f"{label}/{group}"
            for name, values in MEANS.items():
                estimates[name] = _mean(prompts, values, stratum)
            for name in COHERENCE:
                estimates[name] = _coherence(prompts, name, stratum)
            rows += [
                {"label": label, "group": group, "quantity": name, **vars(estimate)}
                for name, estimate in estimates.items()
            ]
    columns = ["label", "group", "quantity", "value", "low", "high", "n", "reason"]
    return pd.DataFrame(rows, columns=columns).assign(arm=arm.name)


def _mean(prompts: pd.DataFrame, column: str, stratum: str) -> Estimate:
    clusters = pd.factorize(prompts["cluster"])[0] if "cluster" in prompts else None
    return mean_of(prompts[column].to_numpy(dtype=np.float64), clusters, stratum=stratum)


def _coherence(prompts: pd.DataFrame, column: str, stratum: str) -> Estimate:
    """Over the prompts whose answers are long enough for it."""
    known = prompts.dropna(subset=[column]) if column in prompts else prompts[:0]
    if known.empty:
        return Estimate.undefined("no text to measure it on", len(prompts))
    return _mean(known, column, stratum)


def _rate(prompts: pd.DataFrame, classes: tuple[str, ...]) -> Estimate:
    texts = prompts["class"].dropna()
    if texts.empty:
        return Estimate.undefined("no text was generated", len(prompts))
    return rate_of(int(texts.isin(classes).sum()), len(texts))


def pick(table: pd.DataFrame, quantity: str, group: str, label: str = "harmful") -> Estimate:
    """One number of a `behaviour` table; undefined where there is no such row."""
    rows = table[
        (table["quantity"] == quantity) & (table["group"] == group) & (table["label"] == label)
    ]
    if rows.empty:
        return Estimate.undefined("no test prompts")
    row = rows.iloc[0]
    return Estimate(
        float(row["value"]), float(row["low"]), float(row["high"]), int(row["n"]), row["reason"]
    )


def verdict_on(target: str, after: pd.DataFrame, base: pd.DataFrame) -> TargetVerdict:
    """The verdict on `target` from the `behaviour` tables of the arm and of the base."""
    return TargetVerdict(
        refusal_rate=pick(after, "refusal_rate", target),
        answer_rate=pick(after, "answer_rate", target),
        other_mass=pick(after, "other_mass", target),
        base_other_mass=pick(base, "other_mass", target),
    )
