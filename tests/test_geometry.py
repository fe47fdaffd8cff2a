"""Cosines between labels' directions: planted truths, nulls at their level, shared controls."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from interp.errors import InputError
from interp.similarity import cosine_map, plain_cosines
from interp.similarity.cosines import Contrast, cosine_between
from interp.statistics import (
    Confidence,
    covariance_matched_overlaps,
    isotropic_cosine,
    permuted_weights,
    studentised_products,
)

D_MODEL = 32


def paired(n: int) -> np.ndarray:
    return np.repeat(np.arange(n)[:, None], 2, axis=1)


def noise(rng: np.random.Generator, n: int, layers: int) -> np.ndarray:
    """Anisotropic; two layers share half of it, as in a residual stream, many are worlds apart."""
    sd = np.arange(1, D_MODEL + 1) ** -0.5
    shared = rng.normal(size=(n, 1 if layers == 2 else layers, D_MODEL))
    return 0.7 * sd * (shared + rng.normal(size=(n, layers, D_MODEL)))


def contrast(
    rng: np.random.Generator,
    direction: np.ndarray | float = 0.0,
    n: int = 24,
    layers: int = 2,
    matched: bool = True,
) -> Contrast:
    common = noise(rng, n, layers)
    positive = common + noise(rng, n, layers) + direction
    negative = (common if matched else noise(rng, n, layers)) + noise(rng, n, layers)
    return Contrast(positive, negative, paired(n) if matched else None)


@pytest.mark.parametrize("matched", [True, False])
def test_planted_cosines_are_recovered_and_covered(matched: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = np.zeros((2, 300, D_MODEL))
    a[:, 5] = 2.0
    b[:, 5], b[:, 9] = 2.0 * 0.6, 2.0 * 0.8
    found = cosine_between(
        contrast(rng, a, layers=300, matched=matched), contrast(rng, b, layers=300, matched=matched)
    )
    assert np.median(found.value) == pytest.approx(0.6, abs=0.03)
    # Layers share half of their noise, so that 300 of them count as fewer.
    assert ((found.low <= 0.6) & (found.high >= 0.6)).mean() >= 0.88


def test_the_plain_cosine_of_one_direction_with_itself_is_not_one_and_ours_is() -> None:
    rng = np.random.default_rng(0)
    direction = np.eye(D_MODEL)[3] * 1.2
    a, b = (contrast(rng, direction, layers=200, n=32) for _ in range(2))
    vectors = np.stack([c.positive.mean(0) - c.negative.mean(0) for c in (a, b)])
    assert np.median(plain_cosines(vectors)[:, 0, 1]) < 0.93
    found = cosine_between(a, b)
    assert np.nanmedian(found.value) > 0.95
    assert np.nanmean(found.high >= 1 - 1e-9) > 0.9


def test_directions_that_share_their_controls_have_a_cosine_of_one_half_on_noise() -> None:
    rng = np.random.default_rng(0)
    one, two, controls, others = rng.normal(size=(4, 50, 1, 2000))
    shared = plain_cosines(np.stack([x.mean(0) - controls.mean(0) for x in (one, two)]))
    apart = plain_cosines(np.stack([one.mean(0) - controls.mean(0), two.mean(0) - others.mean(0)]))
    assert shared[0, 0, 1] == pytest.approx(0.5, abs=0.05)
    assert apart[0, 0, 1] == pytest.approx(0.0, abs=2 * isotropic_cosine(2000))
    with pytest.warns(UserWarning, match="share 50 rows"):
        cosine_map({"a": Contrast(one, controls), "b": Contrast(two, controls)}, permutations=10)


@pytest.mark.parametrize("matched", [True, False])
def test_noise_heatmaps_reject_at_the_nominal_rate(matched: bool) -> None:
    """Per cell and family-wise over layers × pairs; 400 heatmaps of 2 layers and 3 pairs."""
    rng = np.random.default_rng(0)
    cell, family = [], []
    for _ in range(400):
        labels = [contrast(rng, n=12, matched=matched) for _ in range(3)]
        weights = [permuted_weights(c, 100, rng) for c in labels]
        statistics = np.stack(
            [
                studentised_products(labels[i], labels[j], weights[i], weights[j])[0]
                for i, j in combinations(range(3), 2)
            ],
            axis=-1,
        )
        sizes = np.abs(statistics)
        cell.append(((sizes >= sizes[0]).mean(axis=0) <= 0.05).mean())
        family.append((sizes.max(axis=(1, 2)) >= sizes[0].max()).mean() <= 0.05)
    assert 0.035 <= np.mean(cell) <= 0.065
    assert 0.02 <= np.mean(family) <= 0.08


def test_real_but_perpendicular_directions_are_not_called_related() -> None:
    rng = np.random.default_rng(1)
    a, b = (contrast(rng, 1.5 * np.eye(D_MODEL)[i], n=24, layers=300) for i in (4, 9))
    found = cosine_map({"a": a, "b": b}, permutations=100)
    assert found.defined.mean() > 0.9
    assert 0.02 <= (found.p[found.defined[:, 0, 1], 0, 1] <= 0.05).mean() <= 0.08
    outside = np.abs(found.value[:, 0, 1]) > found.null_high[:, 0, 1]
    assert 0.02 <= outside[found.defined[:, 0, 1]].mean() <= 0.08


def test_permuted_pairs_swap_together_and_class_sizes_stay() -> None:
    rng = np.random.default_rng(0)
    matched = contrast(rng, n=10)
    weights = permuted_weights(matched, 50, rng)
    np.testing.assert_allclose(weights[:, :10], -weights[:, 10:])
    np.testing.assert_array_equal(weights[0] > 0, matched.classes == 0)
    partly = Contrast(matched.positive, matched.negative[:8], matched.pairs[:4])
    weights = permuted_weights(partly, 50, rng)
    assert ((weights > 0).sum(axis=1) == 10).all()
    np.testing.assert_array_equal(weights[:, :4] > 0, weights[:, 10:14] < 0)
    assert len(np.unique(weights > 0, axis=0)) > 40


def test_map_on_noise_is_undefined_and_on_directions_is_right() -> None:
    rng = np.random.default_rng(0)
    directions = {"a": np.eye(D_MODEL)[0], "b": np.eye(D_MODEL)[0], "c": np.eye(D_MODEL)[1]}
    found = cosine_map(
        {name: contrast(rng, 3 * vector) for name, vector in directions.items()},
        permutations=200,
        layers=[4, 7],
    )
    assert found.defined.all()
    np.testing.assert_array_equal(found.value, found.value.transpose(0, 2, 1))
    assert (found.low[:, 0, 1] > 0.8).all()
    assert (np.abs(found.value[:, 0, 2]) < 0.4).all()
    assert (found.p[:, 0, 1] <= 0.02).all()
    assert (found.p_corrected[:, 0, 1] >= found.p[:, 0, 1]).all()
    assert (found.value[:, 0, 1] > found.null_high[:, 0, 1]).all()
    assert (found.reliability > 0.8).all()
    table = found.to_dataframe()
    assert list(table.columns) == [
        *("layer", "label_a", "label_b", "value", "low", "high", "n"),
        *("null_low", "null_high", "p", "p_corrected", "defined"),
        *("reliability_a", "reliability_b", "isotropic", "covariance_matched", "ceiling"),
        *("draws", "no_null"),
    ]
    assert set(table["draws"]) == {200} and set(table["no_null"]) == {""}
    assert len(table) == 2 * 9
    assert set(table["layer"]) == {4, 7}
    row = table.query("layer == 7 and label_a == 'a' and label_b == 'b'")
    assert row["value"].item() == found.value[1, 0, 1]

    silent = cosine_map({str(i): contrast(rng) for i in range(3)}, permutations=50)
    off_diagonal = ~np.eye(3, dtype=bool)
    assert silent.defined[:, off_diagonal].mean() <= 0.1
    assert np.isnan(silent.value[~silent.defined]).all()
    assert np.isfinite(silent.p[:, off_diagonal]).all()


def test_random_directions_of_the_prompts_do_not_know_where_the_classes_lie() -> None:
    """They are drawn from the covariance within classes."""
    rng = np.random.default_rng(0)
    sides = [contrast(rng, n=20, matched=False) for _ in range(2)]
    moved = [Contrast(c.positive + 50.0 * (i + 1), c.negative) for i, c in enumerate(sides)]
    for dimensions in (1, 3):
        one, other = (
            covariance_matched_overlaps(
                given, [(0, 1)], dimensions=dimensions, draws=50, rng=np.random.default_rng(1)
            )
            for given in (sides, moved)
        )
        np.testing.assert_allclose(one, other, atol=1e-9)
        assert ((one >= 0) & (one <= 1)).all() and one.std() > 0.01


def test_the_cosine_s_random_direction_null_is_a_cosine() -> None:
    """Not its square: where prompts vary alike in all dimensions it is that of any direction."""
    rng = np.random.default_rng(0)
    labels = {name: Contrast(*rng.normal(size=(2, 300, 2, 64))) for name in "ab"}
    found = cosine_map(labels, permutations=5)
    assert found.covariance_matched[:, 0, 1] == pytest.approx(isotropic_cosine(64), rel=0.12)
    assert found.isotropic[:, 0, 1] == pytest.approx(isotropic_cosine(64))
    assert isotropic_cosine(64) == pytest.approx(1.96 / 8, rel=0.02)


def test_the_null_band_is_that_of_sizes_and_no_narrower_than_student_s() -> None:
    """Five labellings; the observed one gives opposite directions at half of the layers."""
    rng, axis = np.random.default_rng(0), 1.5 * np.eye(D_MODEL)[4]
    other = np.where(np.arange(40)[:, None] < 20, -axis, 1.5 * np.eye(D_MODEL)[9])
    sides = [contrast(rng, direction, layers=40) for direction in (axis, other)]
    labels, again = dict(zip("ab", sides, strict=True)), np.random.default_rng(5)
    weights = [permuted_weights(c, 5, again) for c in sides]
    statistics, _ = studentised_products(*sides, *weights)
    student = Confidence(0.95, 24).two_sided
    beyond = np.maximum(np.quantile(np.abs(statistics), 0.95, axis=0), student)
    assert 0.3 < (beyond > student).mean() < 0.8
    # The same in another unit: with one labelling its own size is all that is drawn.
    alone = np.maximum(np.abs(statistics[0]), student)
    five, one = (cosine_map(labels, permutations=n, seed=5).null_high[:, 0, 1] for n in (5, 1))
    np.testing.assert_allclose(five / beyond, one / alone)


def test_numbers_of_units_mean_nothing_between_two_contrasts() -> None:
    """Pair 3 of one label has nothing to do with pair 3 of the other."""
    rng = np.random.default_rng(0)
    a, b = (contrast(rng, 0.8, n=12, layers=20) for _ in range(2))
    order = rng.permutation(12)
    other = Contrast(b.positive[order], b.negative[order], paired(12))
    one, two = cosine_between(a, b), cosine_between(a, other)
    for name in ("value", "low", "high", "null_low"):
        np.testing.assert_allclose(getattr(one, name), getattr(two, name), rtol=1e-6, atol=1e-9)
    assert one.defined.any()


def test_labels_are_permuted_apart_from_one_another() -> None:
    """Two labels whose prompts nearly coincide share their noise, and no relabelling does."""
    rng = np.random.default_rng(2)
    a = contrast(rng, n=20, layers=30)
    near = Contrast(
        *(x + 0.01 * rng.normal(size=x.shape) for x in (a.positive, a.negative)), a.pairs
    )
    found = cosine_map({"a": a, "b": near}, permutations=60)
    assert (found.p[:, 0, 1] <= 0.05).mean() > 0.8


def test_corrected_p_values_count_every_cell_of_the_map() -> None:
    """Real directions: never below Šidák's correction of Student's test for layers × pairs."""
    rng = np.random.default_rng(3)
    labels = {
        name: contrast(rng, 2.0 * np.eye(D_MODEL)[i] + 0.3, n=16, layers=10)
        for i, name in enumerate("abc")
    }
    draws = 400
    found = cosine_map(labels, permutations=draws)
    upper = np.triu_indices(3, 1)
    p, corrected = (x[:, *upper] for x in (found.p, found.p_corrected))
    assert (corrected >= p).all() and found.defined.all()
    # A permutation p is a whole number of draws; the others are Student's, the larger of the two.
    student = np.abs(p * draws - np.round(p * draws)) > 1e-6
    assert student.sum() > 5
    assert (corrected >= -np.expm1(p.size * np.log1p(-p)) - 1e-12)[student].all()


def test_same_seed_same_map() -> None:
    labels = {str(i): contrast(np.random.default_rng(i), 1.0) for i in range(2)}
    one, two = (cosine_map(labels, permutations=50, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.p_corrected, two.p_corrected)


def test_errors_are_one_line() -> None:
    rng = np.random.default_rng(0)
    good = contrast(rng)
    with pytest.raises(InputError, match="at least two"):
        cosine_map({"a": good})
    with pytest.raises(InputError, match="same model and layers"):
        cosine_between(good, contrast(rng, layers=3))
    with pytest.raises(InputError, match="3 separate positive prompts"):
        Contrast(good.positive[:3], good.negative)
    with pytest.raises(InputError, match="beyond"):
        Contrast(good.positive, good.negative, np.array([[0, 99]]))
    broken = good.positive.copy()
    broken[2, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN or infinite activations in 1 of 24"):
        Contrast(broken, good.negative)
