"""What a run keeps of its states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.runs import contrast_rows, write_directions
from interp.directions import ESTIMATORS, DirectionSet, estimator, mean_difference
from interp.errors import InputError
from interp.statistics import Contrast


def test_directions_point_from_benign_to_harmful(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planted = np.zeros(8)
    planted[3] = 5.0
    states = rng.normal(size=(40, 2, 8))
    harmful = np.arange(40) < 20
    states[harmful] += planted
    write_directions(tmp_path, {"safety": Contrast.from_labels(states, harmful)}, (0, 1), {})
    for name in ("directions", "principal_components"):
        kept = DirectionSet.load(tmp_path / f"{name}.safetensors")
        for layer in (0, 1):
            direction = kept.select("safety", layer)
            assert direction.shape == (8,) and np.isfinite(direction).all()
    means = DirectionSet.load(tmp_path / "directions.safetensors")
    for layer in (0, 1):
        np.testing.assert_allclose(means.select("safety", layer), planted, atol=1.0)


class LabelledMeans:
    """An estimator that sets nothing but its direction."""

    def fit(self, states: np.ndarray, labels: np.ndarray, groups: list[int]) -> LabelledMeans:
        if len(groups) < 40:
            raise InputError("too few")
        self.direction_ = mean_difference(states[labels], states[~labels])
        return self


def test_an_estimator_that_sets_only_its_direction_gets_a_reliability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known in ("_entries", "_abouts", "_origins"):
        monkeypatch.setattr(ESTIMATORS, known, dict(getattr(ESTIMATORS, known)))
    estimator("labelled_means", title="means of labels")(LabelledMeans)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(120, 2, 8))
    harmful = np.arange(120) < 60
    states[harmful, 0, 3] += 3.0  # nothing but noise at layer 1
    contrasts = {"safety": Contrast.from_labels(states, harmful)}
    write_directions(tmp_path, contrasts, (0, 1), {}, "labelled_means")
    kept = DirectionSet.load(tmp_path / "directions.safetensors")
    assert kept.estimator == "LabelledMeans" and kept.n.tolist() == [60]
    np.testing.assert_array_equal(
        kept.vectors[0], mean_difference(states[harmful], states[~harmful])
    )
    assert kept.reliability[0, 0] > 0.9 > 0.5 > abs(kept.reliability[0, 1])
    built_in = DirectionSet.fitted(ESTIMATORS.find("mean_difference").quick(), contrasts)
    np.testing.assert_allclose(kept.reliability, built_in.reliability, atol=0.15)


def test_an_estimator_that_cannot_be_fitted_to_halves_has_no_reliability() -> None:
    states = np.random.default_rng(0).normal(size=(40, 2, 8))
    contrasts = {"safety": Contrast.from_labels(states, np.arange(40) < 20)}
    assert np.isnan(DirectionSet.fitted(LabelledMeans(), contrasts).reliability).all()


def test_no_prompts_have_no_contrasts() -> None:
    table = pd.DataFrame({"id": ["a"], "prompt": ["Why?"], "domain": ["safety"]})
    table = table.assign(label="harmful", split="train")
    assert contrast_rows(table, table[:0]) == {}
