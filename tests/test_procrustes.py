"""Held-out Procrustes: a planted rotation is seen, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import expm

from interp.errors import InputError
from interp.similarity.procrustes import (
    held_out_errors,
    orthogonal_map,
    procrustes_map,
    shuffled_units,
)

N, WIDTH = 80, 30
SD = np.arange(1, WIDTH + 1) ** -1.0


def rotation(angle: float, seed: int = 0) -> np.ndarray:
    skew = np.random.default_rng(seed).normal(size=(WIDTH, WIDTH))
    skew = np.triu(skew, 1) - np.triu(skew, 1).T
    return expm(angle * skew / np.linalg.norm(skew, 2))


def noise(rng: np.random.Generator, size: float) -> np.ndarray:
    return size * rng.normal(size=(N, 1, WIDTH)) * SD.mean()


def base(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(N, 1, WIDTH)) * SD


def test_the_map_is_scipys() -> None:
    from scipy.linalg import orthogonal_procrustes

    a, b = np.random.default_rng(0).normal(size=(2, 20, 5))
    np.testing.assert_allclose(orthogonal_map(a, b), orthogonal_procrustes(a, b)[0])


def test_a_planted_rotation_is_seen_and_measured() -> None:
    rng = np.random.default_rng(0)
    before = base(rng)
    after = before @ rotation(1.0) + 4.0 + noise(rng, 0.05)
    found = procrustes_map({"base": before, "after": after}, draws=200)
    assert (found.value[0, 0, 1], found.value[0, 1, 0]) > (0.8, 0.8)
    assert found.low[0, 0, 1] > found.null_high[0, 0, 1]
    assert found.p_corrected[0, 0, 1] <= 0.01
    assert np.isnan(found.value[0, 0, 0])


@pytest.mark.parametrize("size", [0.0, 0.5])
def test_a_shift_and_noise_are_no_rotation(size: float) -> None:
    rng = np.random.default_rng(0)
    before = base(rng)
    found = procrustes_map({"a": before, "b": before + 3.0 + noise(rng, size)}, draws=200)
    assert found.value[0, 0, 1] < 0.05
    assert found.p[0, 0, 1] > 0.05


def test_unrelated_representations_are_not_rotations_of_each_other() -> None:
    """In sample an orthogonal map fits them well; held out it does no better than the identity."""
    rng = np.random.default_rng(0)
    rejected, in_sample, held_out = [], [], []
    for seed in range(100):
        a, b = base(rng), base(rng)
        found = procrustes_map({"a": a, "b": b}, draws=60, seed=seed)
        rejected.append(found.p[0, 0, 1] <= 0.05)
        wide_a, wide_b = (x[:, 0] - x[:, 0].mean(0) for x in (a / SD, b / SD))
        fitted = wide_a @ orthogonal_map(wide_a, wide_b)
        in_sample.append(1 - np.square(wide_b - fitted).sum() / np.square(wide_b).sum())
        rotated, _, mean = held_out_errors(wide_a, wide_b, np.arange(N) % 5)
        held_out.append(1 - rotated.sum() / mean.sum())
    assert np.mean(rejected) <= 0.1
    assert np.mean(in_sample) > np.mean(held_out) + 0.5
    assert np.mean(held_out) == pytest.approx(-1, abs=0.2)


def test_the_family_is_all_layers_and_pairs() -> None:
    rng = np.random.default_rng(0)
    family = []
    for seed in range(50):
        models = {
            name: np.concatenate([base(rng) for _ in range(3)], axis=1) for name in ("a", "b")
        }
        found = procrustes_map(models, draws=60, seed=seed)
        family.append((found.p_corrected[:, [0, 1], [1, 0]] <= 0.05).any())
        assert np.nanmin(found.p_corrected - found.p) >= 0
    assert np.mean(family) <= 0.12


def test_pairs_are_held_out_together() -> None:
    """A prompt whose match was fitted is half known; held out alone, noise looks rotated."""
    rng = np.random.default_rng(0)
    a, b = (np.repeat(rng.normal(size=(N // 2, 1, WIDTH)), 2, axis=0) for _ in range(2))
    together = procrustes_map({"a": a, "b": b}, groups=list(np.arange(N) // 2), draws=60)
    apart = procrustes_map({"a": a, "b": b}, draws=60)
    assert together.value[0, 0, 1] < 0.1 < apart.value[0, 0, 1]


def test_held_out_errors_are_those_of_maps_that_never_saw_the_prompt() -> None:
    """Fold by fold with scipy's map: both means and the rotation come from the other folds."""
    from scipy.linalg import orthogonal_procrustes

    rng = np.random.default_rng(4)
    before, after = rng.normal(size=(2, 23, 4)) + np.array([[[2.0]], [[-3.0]]])
    folds = np.arange(23) % 4
    found = held_out_errors(before, after, folds)
    for fold in range(4):
        kept, held = folds != fold, folds == fold
        x, y = (s - s[kept].mean(axis=0) for s in (before, after))
        turned = x[held] @ orthogonal_procrustes(x[kept], y[kept])[0]
        wanted = [np.square(y[held] - predicted).sum(axis=1) for predicted in (turned, x[held], 0)]
        np.testing.assert_allclose(found[:, held], wanted)
    both = held_out_errors(before, np.stack([after, after[::-1]]), folds)
    np.testing.assert_allclose(both[:, 0], found)


def test_copies_of_a_prompt_add_no_certainty() -> None:
    rng = np.random.default_rng(5)
    a, b = base(rng)[:40], base(rng)[:40]
    b = 0.5 * b + a @ rotation(1.0)
    once = procrustes_map({"a": a, "b": b}, draws=2)
    copies = {name: np.repeat(x, 3, axis=0) for name, x in (("a", a), ("b", b))}
    thrice = procrustes_map(copies, draws=2, groups=list(np.repeat(np.arange(40), 3)))
    for name in ("value", "low", "high"):
        np.testing.assert_allclose(getattr(thrice, name), getattr(once, name), atol=1e-6)
    assert once.high[0, 0, 1] - once.low[0, 0, 1] > 0.05


def test_units_change_places_with_units_of_their_size() -> None:
    units = np.array([0, 0, 1, 2, 2, 3, 4])
    orders = [shuffled_units(units, np.random.default_rng(seed)) for seed in range(30)]
    for order in orders:
        assert sorted(order) == list(range(7))
        assert {tuple(order[:2]), tuple(order[3:5])} == {(0, 1), (3, 4)}
        assert set(order[[2, 5, 6]]) == {2, 5, 6}
    assert len({tuple(order) for order in orders}) > 6


def test_errors_are_one_line() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2, 4))
    with pytest.raises(InputError, match="same prompts, layers and width"):
        procrustes_map({"a": x, "b": x[..., :3]})
    with pytest.raises(InputError, match="16 or more"):
        procrustes_map({"a": x[:8], "b": x[:8]})
    with pytest.raises(InputError, match="layer names"):
        procrustes_map({"a": x, "b": x}, layers=[1])


def test_copies_that_are_named_as_groups_are_counted_once() -> None:
    rng = np.random.default_rng(0)
    a, b = (np.repeat(base(rng)[:16], 4, axis=0) for _ in range(2))
    found = procrustes_map({"a": a, "b": b}, groups=list(np.repeat(np.arange(16), 4)), draws=2)
    assert found.n == (16, 16)
    with pytest.raises(InputError, match="2 separate prompts; .* 16 or more"):
        procrustes_map({"a": a[:16], "b": b[:16]}, groups=[0, 1] * 8, draws=2)
