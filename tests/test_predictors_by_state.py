"""Predictors read from states equal their definitions; they are kept for what they depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA

from analyses.predict import PREDICTORS
from analyses.predict.by_state import principal_subspace_overlap, projection_difference
from analyses.predict.world import predictions_key
from interp.similarity.subspaces import subspace_overlap
from interp.statistics import Contrast


def evidence_with(contrasts: Mapping[str, Contrast], layers: int, *more: str) -> Any:
    lm = SimpleNamespace(n_layers=layers)
    return SimpleNamespace(contrasts=contrasts, domains=(*contrasts, *more), lm=lm)


@pytest.mark.parametrize("known", ["ab", ""])
@pytest.mark.parametrize("name", ["mean-difference cosine", "whitened cosine", "subspace overlap"])
def test_domains_without_a_contrast_are_undefined(name: str, known: str) -> None:
    rng = np.random.default_rng(2)
    contrasts = {one: Contrast(*rng.normal(size=(2, 9, 2, 6))) for one in known}
    predict = PREDICTORS[name].predict
    expected = np.zeros((len(known) + 1,) * 2, dtype=bool)
    expected[: len(known), : len(known)] = True
    for variant, values in predict(evidence_with(contrasts, 2, "c")).items():
        assert "layer" in variant
        np.testing.assert_array_equal(np.isfinite(values), expected)


def test_a_projection_difference_is_along_the_source_s_unit_direction() -> None:
    rng = np.random.default_rng(0)
    contrasts = {
        name: Contrast(scale * rng.normal(1, 1, (9, 2, 6)), rng.normal(size=(7, 2, 6)))
        for name, scale in (("a", 1.0), ("b", 3.0), ("c", 0.2))
    }
    evidence = evidence_with(contrasts, layers=2)
    found = projection_difference(evidence)
    for layer in range(2):
        for row, source in enumerate(contrasts.values()):
            direction = source.positive[:, layer].mean(axis=0) - source.negative[:, layer].mean(0)
            direction /= np.linalg.norm(direction)
            for column, target in enumerate(contrasts.values()):
                along = [side[:, layer] @ direction for side in (target.positive, target.negative)]
                np.testing.assert_allclose(
                    found[f"layer {layer}"][row, column], along[0].mean() - along[1].mean()
                )


def test_subspaces_of_domains_with_few_prompts_overlap_in_the_dimensions_that_they_have() -> None:
    rng = np.random.default_rng(1)
    states = {name: rng.normal(size=(n, 1, 12)) for name, n in (("a", 4), ("b", 6), ("c", 20))}
    contrasts = {name: Contrast(one, one) for name, one in states.items()}
    evidence = evidence_with(contrasts, layers=1)
    found = principal_subspace_overlap(evidence)
    for k in (2, 4, 8):
        bases = [PCA(min(k, len(one) - 1)).fit(one[:, 0]).components_ for one in states.values()]
        expected = [[subspace_overlap(one, other) for other in bases] for one in bases]
        np.testing.assert_allclose(found[f"k = {k}, layer 0"], expected)


def test_predictions_are_kept_for_one_base_readout_and_way_of_training(tmp_path: Path) -> None:
    done = tmp_path / "arms" / "base" / "DONE"
    done.parent.mkdir(parents=True)

    def key(base: str, refusal: int = 1, **training: Any) -> str:
        done.write_text(base, encoding="utf-8")
        prefixes = {"refusal": [[refusal]], "compliance": [[0]]}
        done.with_name("openers.json").write_text(json.dumps(prefixes), encoding="utf-8")
        trainings = [None, {"trained": "lora", "lora_rank": 8} | training]
        arms = [SimpleNamespace(config={"training": one}) for one in trainings]
        record: Any = SimpleNamespace(folder=tmp_path, arms=arms)
        return predictions_key(record)

    keys = [key("one"), key("two"), key("one", trained="projections"), key("one", lora_rank=4)]
    keys.append(key("one", refusal=2))
    assert len(set(keys)) == 5 and key("one") == keys[0]
    sampled = done.parent / "deflections" / "safety.parquet"
    sampled.parent.mkdir()
    for number in (16, 64):
        pd.DataFrame({"response": ["I cannot."] * number}).to_parquet(sampled)
        keys.append(key("one"))
    assert len(set(keys)) == 7
