"""Rows of one group are one unit: in every split, permutation, variance and count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import spillover as sp
from interp.activations import Activations
from interp.directions import MeanDifference, held_out_projections
from interp.errors import InputError
from interp.model import LanguageModel
from interp.similarity import cosine_map, rotation
from interp.similarity.rotations import QUANTITIES
from interp.statistics import Contrast, class_means, inner_products, permuted_weights
from tests.patched_models import PROMPTS, changed, some_log_odds
from tests.planted_directions import Planted, planted_change


def noise(rng: np.random.Generator, units: np.ndarray, worlds: int, shared: float) -> np.ndarray:
    """States of rows, one world per layer; rows of one unit share part of their variance."""
    common = rng.normal(size=(units.max() + 1, worlds, 64))
    return np.sqrt(shared) * common[units] + np.sqrt(1 - shared) * rng.normal(
        size=(len(units), worlds, 64)
    )


def doubled(contrast: Contrast) -> Contrast:
    """Every row twice, with the copies named as one group."""
    return Contrast(
        np.repeat(contrast.positive, 2, axis=0),
        np.repeat(contrast.negative, 2, axis=0),
        groups=np.repeat(contrast.units, 2),
    )


@pytest.mark.parametrize("paired", [True, False])
def test_copies_that_are_named_as_groups_change_nothing(paired: bool) -> None:
    before, after = planted_change(
        Planted(30, 0.7), snr=0.5, n=12, same_prompts=True, worlds=3, seed=0, paired=paired
    )
    assert doubled(before).n == before.n == 12 and doubled(before).effective_n == 12
    for same in (True, False):
        once = rotation(before, after, same_prompts=same)
        twice = rotation(doubled(before), doubled(after), same_prompts=same)
        for name in QUANTITIES:
            for bound in ("value", "low", "high", "null_high"):
                np.testing.assert_allclose(
                    getattr(getattr(once, name), bound),
                    getattr(getattr(twice, name), bound),
                    rtol=1e-6,
                    atol=1e-6,
                )
    maps = [
        cosine_map({"a": a, "b": b}, permutations=50)
        for a, b in ((before, after), (doubled(before), doubled(after)))
    ]
    for name in ("value", "low", "high", "p", "p_corrected", "null_high", "reliability"):
        np.testing.assert_allclose(getattr(maps[0], name), getattr(maps[1], name), rtol=1e-6)
    fits = [
        MeanDifference(resamples=20).fit(c.states, c.classes == 0, c.units.tolist())
        for c in (before, doubled(before))
    ]
    assert fits[0].n_ == fits[1].n_ == 12
    np.testing.assert_allclose(fits[0].reliability_low_, fits[1].reliability_low_)


def test_squared_lengths_are_unbiased_whatever_the_sizes_of_units() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(6), [1, 2, 3, 1, 4, 2])
    states = noise(rng, units, 500, 0.7)
    products = inner_products(
        class_means(states, np.zeros(len(units), int), units, np.eye(1)), [(0, 0)]
    )
    values = products.value[:, 0]
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))


def test_noise_with_copies_has_no_direction_and_no_significant_cosine() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(12), 2)
    groups = np.concatenate([units, units + 12])

    def contrast() -> Contrast:
        return Contrast(noise(rng, units, 60, 0.9), noise(rng, units, 60, 0.9), groups=groups)

    a, b = contrast(), contrast()
    fit = MeanDifference(resamples=0).fit(a.states, a.classes == 0, groups.tolist())
    assert abs(fit.reliability_.mean()) < 0.05
    assert abs(held_out_projections(a).separation.mean() - 0.5) < 0.06
    found = cosine_map({"a": a, "b": b}, permutations=200)
    assert (found.p[:, 0, 1] <= 0.05).mean() < 0.15


def test_permutations_exchange_the_sides_of_units_as_wholes() -> None:
    rng = np.random.default_rng(0)
    groups = [0, 0, 1, 2, 2, 3, 0, 4, 4, 4, 5, 6, 2, 7]  # unit 2 has both sides
    states = rng.normal(size=(14, 1, 3))
    contrast = Contrast(states[:7], states[7:], groups=groups)
    positive = permuted_weights(contrast, 200, rng) > 0
    side = np.array([f"{u} {c}" for u, c in zip(contrast.units, contrast.classes, strict=True)])
    for one in np.unique(side):
        assert (positive[:, side == one].all(axis=1) | ~positive[:, side == one].any(axis=1)).all()
        assert len(np.unique(positive[:, side == one])) == 2
    mixed = contrast.units == contrast.units[groups.index(2)]
    assert (positive[:, mixed].any(axis=1) & ~positive[:, mixed].all(axis=1)).all()
    np.testing.assert_allclose(permuted_weights(contrast, 200, rng).sum(axis=1), 0, atol=1e-12)


def test_too_few_units_are_refused() -> None:
    states = np.random.default_rng(0).normal(size=(24, 1, 3))
    with pytest.raises(InputError, match="3 separate positive prompts"):
        Contrast(states[:12], states[12:], groups=[*np.repeat([0, 1, 2], 4), *range(3, 15)])
    with pytest.raises(InputError, match="5 groups for 24 prompts"):
        Contrast(states[:12], states[12:], groups=range(5))


def test_copies_narrow_no_interval_of_a_patch(checkpoint_of: Callable[[str], Path]) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    after = changed(lm, lambda name: "mlp" in name)
    texts = [*PROMPTS, "How do bees find home?", "Name a river."]
    table = pd.DataFrame({"prompt": texts, "domain": "safety", "label": "harmful"})
    table = table.assign(split="test")
    four = pd.concat([table] * 4, ignore_index=True)
    told = {"readout": some_log_odds(lm), "layers": [1]}
    intervals = {"least_gap": 0.0, "resamples": 200}
    for made in (sp.patch, sp.stitch):
        wanted, *same = (
            made(lm, after, prompts, **told).to_dataframe(**intervals)  # type: ignore[operator]
            for prompts in (table, four, list(four["prompt"]))
        )
        ends = [name for name in wanted if name.endswith(("_low", "_high"))]
        assert wanted[ends].notna().all(axis=None)
        for one in same:
            np.testing.assert_allclose(one[ends], wanted[ends], rtol=1e-3, atol=1e-4)


def test_a_map_of_prompts_takes_pairs_and_copies_as_units() -> None:
    states = np.random.default_rng(0).normal(size=(40, 1, 1, 8))
    ids, tokens = tuple(range(40)), np.zeros((40, 1), dtype=int)
    acts = Activations({"residual_out": states}, (0,), ids, tokens, "float32")
    labels = ["harmful", "benign"] * 20
    texts = pd.DataFrame({"prompt": list(map(str, range(40))), "label": labels})
    paired = texts.assign(pair=np.repeat(np.arange(20), 2))
    maps = [sp.state_map(acts, table, layer=0, by="label") for table in (texts, paired)]
    assert maps[0].agreement != maps[1].agreement
    with pytest.raises(InputError, match="20 of one group"):
        sp.state_map(acts, texts.assign(prompt=labels), layer=0, by="label", neighbours=21)
