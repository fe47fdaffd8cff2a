"""Which deflections of the retained domains an arm trains on, and in which groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analyses.runs import write_table
from unlearning.deflections import refusals_of

FOLDER, FILE = "containment", "ranking.parquet"


def pool_of(responses: pd.DataFrame, domains: Sequence[str], count: int | None) -> pd.DataFrame:
    """Training deflections of ``domains``, at most ``count`` of each.

    Raises:
        InputError: a domain has fewer than 32.
    """
    train = responses[responses["split"] == "train"]
    found = [refusals_of(train, domain) for domain in domains]
    return pd.concat([rows.head(count or len(rows)) for rows in found], ignore_index=True)


def chosen(
    pool: pd.DataFrame, ranking: pd.DataFrame, method: str, count: int | None
) -> pd.DataFrame:
    """The ``count`` rows of ``pool`` with the largest scores; all where there is no count."""
    scores = ranking.set_index("id")[method].loc[pool["id"]].to_numpy()
    order = np.argsort(-scores, kind="stable")[: count or len(pool)]
    return pool.iloc[order].reset_index(drop=True)


def dealt(rows: pd.DataFrame, groups: int) -> dict[str, pd.DataFrame]:
    """The rows in as many equal groups as there are retained domains.

    Whatever is chosen then has the same weight, and the same place in a batch, as equal shares.
    """
    parts = {f"chosen-{i + 1}": rows.iloc[i::groups] for i in range(groups)}
    return {name: part for name, part in parts.items() if len(part)}


def write_ranking(folder: Path, ranking: pd.DataFrame) -> None:
    """Keep the ranking for the arms."""
    write_table(folder / FOLDER / FILE, ranking)


def read_ranking(folder: Path) -> pd.DataFrame:
    """The ranking as :func:`write_ranking` kept it."""
    return pd.read_parquet(folder / FOLDER / FILE)
