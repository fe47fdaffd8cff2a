"""The reported tournaments, made again: from the packaged table, and from that of gated models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analyses.predict import PREDICTORS, read_choices, read_worlds, run_tournament
from analyses.predict.tournaments import hash_of
from analyses.predict.world import PredictedRun
from experiments.organisms import FORGOTTEN, planned
from interp.store import read_json, read_table

GATED = Path(__file__).parents[1] / "docs" / "gallery" / "rows" / "gated_worlds"
SEEDS = tuple(range(204, 216))


@pytest.fixture(scope="module")
def worlds() -> list[PredictedRun]:
    return read_worlds()


@pytest.fixture(scope="module")
def result(worlds: list[PredictedRun]) -> dict[str, Any]:
    return run_tournament(worlds, read_choices(), seed=0)


def rows(result: dict[str, Any]) -> dict[str, Any]:
    return {row["predictor"]: row for row in result["predictors"]}


def test_no_world_was_chosen_on_and_the_choices_are_the_frozen_ones(result: dict[str, Any]) -> None:
    assert len(result["worlds"]) == 12
    assert not set(result["worlds"]) & set(result["chosen_on"])
    assert result["choices_hash"] == hash_of(read_choices())


def test_a_predictor_that_was_added_later_is_named_and_changes_nothing_else(
    worlds: list[PredictedRun], result: dict[str, Any]
) -> None:
    frozen = read_choices()
    (name, variant), *_ = frozen["added"].items()
    assert name in PREDICTORS and not set(frozen["added"]) & set(frozen["choices"])
    assert hash_of(frozen) == hash_of({**frozen, "added": {}})
    more = [
        replace(
            one,
            predictions={**one.predictions, (name, variant): one.outcome.leakage},
            kinds={**one.kinds, name: "geometry"},
        )
        for one in worlds[:2]
    ]
    found = run_tournament(more, frozen, seed=0)
    assert rows(found)[name]["added_later"] and name == found["predictors"][0]["predictor"]
    assert not any("added_later" in row for row in result["predictors"])
    assert all(name not in (one["first"], one["second"]) for one in found["differences"])


def test_the_instrument_is_good_enough_to_tell_predictors_apart(result: dict[str, Any]) -> None:
    assert result["reliability_min"] >= 0.9
    for difference in result["differences"]:
        if difference["part"] in ("all_pairs", "entanglement"):
            assert difference["standard_error"] <= 0.06


def test_the_oracle_beats_what_needs_no_mechanism_and_noise_says_nothing(
    result: dict[str, Any],
) -> None:
    found = rows(result)
    oracle = found["planted read-out"]["all_pairs"]
    trivial = [row["all_pairs"] for row in found.values() if row["kind"] == "trivial"]
    assert all(oracle["low"] > each["value"] for each in trivial)
    assert found["random"]["all_pairs"]["value"] < found["random"]["all_pairs"]["null_high"]


def test_the_gated_ones_were_planned_and_are_read_by_the_same_choices() -> None:
    manifest = read_json(GATED / "manifest.json")
    assert manifest == planned(SEEDS, "gated", 2)
    arms = read_table(GATED / "arms.parquet")
    assert set(zip(arms["world"], arms["arm"], strict=True)) >= {
        (seed, arm) for seed in SEEDS for arm in manifest["arms"]
    }
    assert (arms["outcome"] == FORGOTTEN).sum() == 168
    found = run_tournament(read_worlds(GATED / "worlds.parquet"), read_choices(), seed=0)
    assert found["choices_hash"] == hash_of(read_choices())
    assert found["worlds"] == [f"run-{seed}" for seed in SEEDS]
    said = {"margin kernel": (0.67, 0.52, 0.82), "mean-difference cosine": (0.39, 0.28, 0.51)}
    for name, numbers in said.items():
        told = rows(found)[name]["all_pairs"]
        assert [told[key] for key in ("value", "low", "high")] == pytest.approx(numbers, abs=0.006)
    noise = rows(found)["random"]["all_pairs"]
    assert noise["value"] < noise["null_high"]


@pytest.mark.parametrize(
    ("table", "cells", "mean", "deviation"),
    [(None, 444, -0.024, 0.061), (GATED / "worlds.parquet", 504, -0.080, 0.143)],
)
def test_the_kernel_ratio_is_the_leakage_with_nothing_fitted(
    table: Path | None, cells: int, mean: float, deviation: float, worlds: list[PredictedRun]
) -> None:
    """What docs/explanation/prediction.md says of the forecast's error."""
    errors = []
    for world in read_worlds(table) if table else worlds:
        told = world.predictions["objective kernel", "Adam, relative"]
        leaked = world.outcome.leakage
        both = np.isfinite(leaked) & np.isfinite(told) & ~np.eye(len(leaked), dtype=bool)
        errors.append((leaked - told)[both])
    pooled = np.concatenate(errors)
    assert len(pooled) == cells
    assert pooled.mean() == pytest.approx(mean, abs=0.001)
    assert pooled.std() == pytest.approx(deviation, abs=0.001)
