"""Choose one point of the grid for each row of the table, on validation prompts.

The paper reports the best point of its grid. A choice on the reported prompts is biased upwards, so
this module chooses on other prompts, and also reports the result of a choice on the test prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from analyses.reproduce.plan import PaperArm
from analyses.reproduce.protocol import UTILITY_DROP
from analyses.runs import Arm

RULE = (
    "Plain arms: the largest loss of the target's refusal. Arms with retain data: the largest "
    "difference between the target's loss and the other domains' mean loss. If any points keep "
    "the bound on utility, only these compete."
)


def grid_table(planned: Sequence[PaperArm], arms: Mapping[str, Arm], base: Arm) -> pd.DataFrame:
    """A row per arm of the grid.

    Returns:
        ``arm, concept, objective, retained, rank, learning_rate, epochs, batch_size,
        retain_ratio``; ``validation`` and ``test``, the criterion in points on these prompts;
        ``utility_lost`` and whether it is ``within`` the bound; ``kept_step``; ``chosen`` (on
        validation prompts) and ``best_on_test``.
    """
    rows = []
    for one in planned:
        arm = arms[one.plan.name]
        rows.append(
            {
                "arm": one.plan.name,
                "concept": one.concept,
                "objective": one.objective,
                "retained": one.retained,
                **vars(one.setting),
                "validation": _criterion(arm, base, one, "validation"),
                "test": _criterion(arm, base, one, "test"),
                "utility_lost": utility_lost(arm, base),
                "kept_step": arm.step,
            }
        )
    table = pd.DataFrame(rows)
    table["within"] = table["utility_lost"] <= UTILITY_DROP
    for column, split in (("chosen", "validation"), ("best_on_test", "test")):
        table[column] = False
        for _row, part in table.groupby(["concept", "objective", "retained"], sort=False):
            allowed = part[part["within"]] if part["within"].any() else part
            table.loc[allowed[split].idxmax(), column] = True
    return table


def utility_lost(arm: Arm, base: Arm) -> float:
    """Lost share of p_C on benign validation prompts at the kept step."""
    before, after = (
        rows.loc[(rows["label"] == "benign") & (rows["split"] == "validation"), "p_C"].mean()
        for rows in (base.scores, arm.last)
    )
    return float(1 - after / before)


def _criterion(arm: Arm, base: Arm, one: PaperArm, split: str) -> float:
    before, after = (_rates(rows, split) for rows in (base.scores, arm.last))
    drop = 100 * (before - after)
    others = drop.drop(one.concept)
    return float(drop[one.concept] - (others.mean() if one.retained else 0.0))


def _rates(scores: pd.DataFrame, split: str) -> pd.Series:
    rows = scores[(scores["split"] == split) & (scores["label"] == "harmful")]
    return rows.groupby("domain")["refused"].mean()
