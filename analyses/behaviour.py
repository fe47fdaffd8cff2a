"""What a model does with the test prompts: rates of generated text, and first-token masses."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses.arms import Arm
from analyses.resampling import Estimate, mean_of, rate_of
from analyses.verdict import Verdict

# Quantity -> the classes of generated text that it counts.
RATES = {
    "refusal_rate": ("refusal",),
    "answer_rate": ("answer",),
    "other_rate": ("other",),
    "gibberish_rate": ("gibberish",),
}
# Quantity -> its column in the scores.
MEANS = {"p_R": "p_R", "p_C": "p_C", "other_mass": "p_O", "margin": "margin"}


def behaviour(arm: Arm) -> pd.DataFrame:
    """One row per group and quantity at the arm's last step, on test prompts.

    Columns `label, group, quantity, value, low, high, n, reason`. Harmful prompts are grouped by
    domain, benign ones by kind (`twin`, `general`). Rates count generated text and are undefined
    where none was generated; the rest are means over prompts.
    """
    test = arm.last[arm.last["split"] == "test"]
    rows = []
    for label, column in (("harmful", "domain"), ("benign", "kind")):
        for group, prompts in test[test["label"] == label].groupby(column, sort=False):
            estimates = {name: _rate(prompts, classes) for name, classes in RATES.items()}
            for name, values in MEANS.items():
                clusters = pd.factorize(prompts["cluster"])[0] if "cluster" in prompts else None
                estimates[name] = mean_of(
                    prompts[values].to_numpy(dtype=np.float64),
                    clusters,
                    stratum=f"{label}/{group}",
                )
            rows += [
                {"label": label, "group": group, "quantity": name, **vars(estimate)}
                for name, estimate in estimates.items()
            ]
    columns = ["label", "group", "quantity", "value", "low", "high", "n", "reason"]
    return pd.DataFrame(rows, columns=columns).assign(arm=arm.name)


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


def verdict_on(target: str, after: pd.DataFrame, base: pd.DataFrame) -> Verdict:
    """The verdict on `target` from the `behaviour` tables of the arm and of the base."""
    return Verdict(
        refusal_rate=pick(after, "refusal_rate", target),
        answer_rate=pick(after, "answer_rate", target),
        other_mass=pick(after, "other_mass", target),
        base_other_mass=pick(base, "other_mass", target),
    )
