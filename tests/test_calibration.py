"""The calibration table: it is what the settings say, and a part of it holds today."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.calibration.benchmark import (
    PARTS,
    beyond_limit,
    calibrated,
    judged,
    markdown,
    measured,
    read_rows,
    settings_of,
)
from experiments.calibration.settings import LIMIT, Setting, covered, rejected
from experiments.pages import with_table

DOCS = Path(__file__).parents[1] / "docs" / "reference"
TABLES = {part: read_rows(DOCS / f"calibration-{part}.csv") for part in PARTS}
QUICK = [setting for part in PARTS for setting in settings_of(part) if setting.quick]
FEW = 200


def test_an_interval_counts_where_it_holds_the_truth() -> None:
    tally = covered(1.0, [(0, 2), (1, 1), (1.5, 2), (np.nan, 2)])
    assert (tally.hits, tally.of, tally.withheld) == (2, 3, 1)
    tally = rejected([0.01, 0.05, 0.6, np.nan])
    assert (tally.hits, tally.of, tally.withheld) == (1, 3, 1)


def test_the_range_and_the_limit_depend_on_the_kind() -> None:
    table = pd.DataFrame(
        {"kind": ["coverage"] * 3 + ["error"] * 3, "rate": [0.95, 0.9, 0.87, 0.05, 0.09, 0.11]}
    )
    assert list(calibrated(table)) == [True, False, False] * 2
    assert list(beyond_limit(table)) == [False, False, True] * 2


@pytest.mark.parametrize("part", PARTS)
def test_the_table_has_the_settings_and_their_seeds(part: str) -> None:
    names = [(s.quantity, s.setting, s.kind, s.seed) for s in settings_of(part)]
    assert len(set(names)) == len(names)
    rows = TABLES[part][["quantity", "setting", "kind", "seed"]]
    assert list(rows.itertuples(index=False, name=None)) == names


def test_the_page_is_that_of_the_tables() -> None:
    page, found = DOCS / "calibration.md", markdown(pd.concat(TABLES.values()))
    assert with_table(page, "calibration", found) == page.read_text(encoding="utf-8")


def test_the_published_rates_are_calibrated() -> None:
    known = judged(pd.concat(TABLES.values()))
    assert calibrated(known).mean() >= 0.9
    assert not beyond_limit(known).any(), known[beyond_limit(known)]


@pytest.mark.slow
@pytest.mark.parametrize("setting", QUICK, ids=lambda s: f"{s.quantity}, {s.setting}")
def test_a_subset_holds_today(setting: Setting) -> None:
    row = measured(setting, FEW)
    limit = LIMIT[setting.kind]
    noise = 3 * np.sqrt(limit * (1 - limit) / FEW)
    if setting.kind == "coverage":
        assert row["rate"] >= limit - noise
    else:
        assert row["rate"] <= limit + noise
