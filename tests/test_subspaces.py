"""Principal angles and overlaps: identities, random subspaces, planted ones, noise."""

from __future__ import annotations

import numpy as np
import pytest

from interp.errors import InputError
from interp.similarity.subspaces import overlap_map, principal_angles, subspace_overlap
from interp.statistics import (
    Contrast,
    covariance_matched_overlaps,
    isotropic_cosine,
    isotropic_overlap,
)
from tests.test_geometry import paired

D_MODEL = 40


def random_bases(rng: np.random.Generator, k: int, d_model: int, draws: int) -> np.ndarray:
    basis, _ = np.linalg.qr(rng.normal(size=(draws, d_model, k)))
    return basis.transpose(0, 2, 1)


def test_angles_of_planted_planes() -> None:
    first = np.eye(6)[:2]
    rotated = np.array([np.cos(0.3) * np.eye(6)[0] + np.sin(0.3) * np.eye(6)[4], np.eye(6)[5]])
    np.testing.assert_allclose(principal_angles(first, rotated), [np.degrees(0.3), 90])
    assert subspace_overlap(first, rotated) == pytest.approx(np.cos(0.3) ** 2 / 2)
    np.testing.assert_allclose(principal_angles(first, first[::-1] * 3), 0, atol=1e-12)
    assert subspace_overlap(first, first[:1]) == pytest.approx(1.0)  # one inside the other
    with pytest.raises(InputError, match="independent rows"):
        principal_angles(first, np.ones((2, 6)))
    with pytest.raises(InputError, match="same width"):
        subspace_overlap(first, np.eye(5)[:2])


@pytest.mark.parametrize("dimensions", [(1, 1), (4, 4), (2, 16)])
def test_random_subspaces_overlap_as_the_null_says(dimensions: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    a, b = (random_bases(rng, k, 64, 4000) for k in dimensions)
    overlaps = (np.einsum("skd,smd->skm", a, b) ** 2).sum(axis=(1, 2)) / min(dimensions)
    assert overlaps.mean() == pytest.approx(max(dimensions) / 64, rel=0.03)
    assert (overlaps > isotropic_overlap(64, dimensions)).mean() == pytest.approx(0.05, abs=0.012)
    assert isotropic_overlap(3, (3, 1)) == 1.0
    assert isotropic_cosine(4096) == pytest.approx(1.96 / 64, rel=0.01)


def test_the_covariance_matched_null_is_that_of_the_covariance() -> None:
    """Eigenvalues 1/i: directions drawn from them are far more alike than isotropic ones."""
    rng = np.random.default_rng(0)
    sd = np.arange(1, D_MODEL + 1) ** -0.5
    sides = rng.normal(size=(2, 2, 300, 1, D_MODEL)) * sd
    contrasts = [Contrast(*side) for side in sides]
    found = covariance_matched_overlaps(contrasts, [(0, 1)], draws=4000, rng=rng)[:, 0, 0]
    u, v = rng.normal(size=(2, 20000, D_MODEL)) * sd
    expected = (u * v).sum(1) ** 2 / ((u**2).sum(1) * (v**2).sum(1))
    assert np.quantile(found, 0.95) == pytest.approx(np.quantile(expected, 0.95), rel=0.1)
    assert np.quantile(found, 0.95) > 2 * isotropic_overlap(D_MODEL, (1, 1))


def contrast(rng: np.random.Generator, axes: list[int], n: int = 40, size: float = 4.0) -> Contrast:
    """Positives spread along ``axes`` beyond what negatives do, the first with a mean as well."""
    sd = np.arange(1, D_MODEL + 1) ** -0.25
    shared = rng.normal(size=(n, 1, D_MODEL))
    positive, negative = (0.7 * sd * (shared + rng.normal(size=(n, 1, D_MODEL))) for _ in range(2))
    for axis in axes:
        positive[..., axis] += size * rng.normal(size=(n, 1))
    if axes:
        positive[..., axes[0]] += size
    return Contrast(positive, negative, paired(n))


def test_planted_overlaps_are_recovered() -> None:
    rng = np.random.default_rng(0)
    axes = {"a": [30, 31], "b": [31, 30], "c": [30, 35], "d": [36, 37]}
    found = overlap_map(
        {name: contrast(rng, plane) for name, plane in axes.items()}, permutations=60, resamples=20
    )
    assert found.defined.all()
    value = found.value[0]
    assert value[0, 1] > 0.85
    assert value[0, 2] == pytest.approx(0.5, abs=0.1)
    assert value[0, 3] < 0.1
    assert found.p[0, 0, 1] < 0.05
    assert found.p[0, 0, 3] > 0.05
    assert (found.reliability > 0.8).all()
    assert (found.low <= found.value).all() and (found.value <= found.high).all()
    assert value[0, 1] <= found.ceiling[0, 0, 1] + 0.1
    np.testing.assert_array_equal(found.value, found.value.transpose(0, 2, 1))
    # Permuted labels leave the loud axes loud: their null is far above that of random planes.
    assert found.isotropic[0, 0, 1] < found.null_high[0, 0, 1] < value[0, 1]
    assert found.limits == (0.0, 1.0) and "2 dimensions" in found.measure


def test_noise_overlaps_within_its_null() -> None:
    rng = np.random.default_rng(0)
    cell, family, defined = [], [], []
    for seed in range(80):
        labels = {str(i): contrast(rng, [], n=12) for i in range(3)}
        found = overlap_map(labels, permutations=40, resamples=2, seed=seed)
        pairs = np.triu_indices(3, 1)
        cell.append((found.p[0][pairs] <= 0.05).mean())
        family.append((found.p_corrected[0][pairs] <= 0.05).any())
        defined.append(found.defined[0][pairs].mean())
    assert 0.01 <= np.mean(cell) <= 0.09
    assert np.mean(family) <= 0.12
    assert np.mean(defined) <= 0.05


def test_errors_are_one_line() -> None:
    rng = np.random.default_rng(0)
    good = contrast(rng, [3])
    with pytest.raises(InputError, match="at least two"):
        overlap_map({"a": good})
    with pytest.raises(InputError, match="collect them alike"):
        overlap_map({"a": good, "b": good.mapped(lambda x: x[..., :9])})
    with pytest.raises(InputError, match="ask for 1 … 20"):
        overlap_map({"a": good, "b": good}, dimensions=21)
