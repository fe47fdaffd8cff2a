"""Debiased CKA: noise, invariances, parity with its definition, the map's null and intervals."""

from __future__ import annotations

import numpy as np
import pytest

from interp.errors import InputError
from interp.similarity.cka import _jackknife_error, _left_out, cka_map, debiased_cka, u_centred


def biased_cka(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (x - x.mean(0) for x in (a, b))
    return np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))


def hsic_1(a: np.ndarray, b: np.ndarray) -> float:
    """As Song et al. (2012), equation 5, write it."""
    n = len(a)
    k, l = (x @ x.T - np.diag(np.diag(x @ x.T)) for x in (a, b))  # noqa: E741
    one = np.ones(n)
    total = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))


def test_it_is_the_cosine_of_song_et_als_estimator() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 15, 6)) + 1
    b[:, :2] += a[:, :2]
    expected = hsic_1(a, b) / np.sqrt(hsic_1(a, a) * hsic_1(b, b))
    assert debiased_cka(a, b) == pytest.approx(expected)
    np.testing.assert_allclose(u_centred(a @ a.T).sum(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("n", [32, 64])
def test_independent_data_reads_zero_where_the_biased_one_reads_near_one(n: int) -> None:
    rng = np.random.default_rng(0)
    pairs = [rng.normal(size=(2, n, 896)) for _ in range(20)]
    assert np.mean([biased_cka(*pair) for pair in pairs]) > 0.9
    assert abs(np.mean([debiased_cka(*pair) for pair in pairs])) < 0.02


def test_it_sees_no_rotation_shift_or_size_and_one_representation_is_like_itself() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 8)) * np.arange(1, 9)
    basis, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert debiased_cka(a, 3 * a @ basis + 5) == pytest.approx(1)
    b = a[:, :3] + rng.normal(size=(30, 3))
    assert debiased_cka(a @ basis, b) == pytest.approx(debiased_cka(a, b))
    assert debiased_cka(b, a) == pytest.approx(debiased_cka(a, b))


def test_leaving_a_prompt_out_in_closed_form_is_leaving_it_out() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12, 5))
    b += a
    by_hand = [
        hsic_1(np.delete(a, i, 0), np.delete(b, i, 0)) * (len(a) - 1) * (len(a) - 4)
        for i in range(len(a))
    ]
    np.testing.assert_allclose(_left_out(a @ a.T, b @ b.T), by_hand)


def test_the_jackknife_error_is_the_spread_over_samples() -> None:
    rng = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(300):
        a = rng.normal(size=(40, 5))
        b = a + 1.5 * rng.normal(size=(40, 5))
        values.append(np.arctanh(debiased_cka(a, b)))
        a, b = a - a.mean(0), b - b.mean(0)
        errors.append(_jackknife_error(a @ a.T, b @ b.T))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.25)


def test_map_of_a_model_changed_little_much_and_wholly() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=(40, 2, 20))
    models = {
        "base": base,
        "little": base + 0.3 * rng.normal(size=base.shape),
        "much": base + 2.0 * rng.normal(size=base.shape),
        "other": rng.normal(size=base.shape),
    }
    found = cka_map(models, permutations=200, layers=[3, 5])
    first = found.value[:, 0]
    assert (first[:, 1] > 0.85).all()
    assert (first[:, 1] > first[:, 2]).all() and (first[:, 2] > first[:, 3]).all()
    assert (found.p_corrected[:, 0, 1] < 0.05).all() and (found.p[:, 0, 3] > 0.01).all()
    assert (abs(first[:, 3]) < 2 * found.null_high[:, 0, 3]).all()
    assert (found.low[:, 0, 1] < first[:, 1]).all() and (first[:, 1] < found.high[:, 0, 1]).all()
    isotropic, shuffled = found.isotropic[:, 0, 3], found.null_high[:, 0, 3]
    np.testing.assert_allclose(isotropic, shuffled, rtol=0.4)  # both are isotropic here


def test_noise_is_rejected_at_the_nominal_rate_and_strata_keep_what_labels_explain() -> None:
    rng = np.random.default_rng(0)
    plain, stratified = [], []
    for seed in range(150):
        a, b = rng.normal(size=(2, 20, 1, 10))
        plain.append(cka_map({"a": a, "b": b}, permutations=60, seed=seed).p[0, 0, 1] <= 0.05)
        label = np.arange(20) % 2  # all that the two have in common
        a, b = (x + 3 * label[:, None, None] for x in (a, b))
        found = cka_map({"a": a, "b": b}, strata=list(label), permutations=60, seed=seed)
        assert found.value[0, 0, 1] > 0.3
        stratified.append(found.p[0, 0, 1] <= 0.05)
    assert np.mean(plain) <= 0.1
    assert np.mean(stratified) <= 0.1


def test_a_group_counts_as_one_prompt() -> None:
    """Copies change nothing; they would be certain and alike if they counted as prompts."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 12, 1, 6))
    groups = list(np.repeat(np.arange(12), 3))
    once = cka_map({"a": a, "b": b}, permutations=40)
    thrice = cka_map(
        {"a": np.repeat(a, 3, axis=0), "b": np.repeat(b, 3, axis=0)}, groups=groups, permutations=40
    )
    for name in ("value", "low", "high", "p", "null_high"):
        np.testing.assert_allclose(getattr(thrice, name), getattr(once, name), atol=1e-9)
    assert thrice.n == (12, 12)
    with pytest.raises(InputError, match="several strata"):
        cka_map({"a": a, "b": b}, groups=[0, 0, *range(1, 11)], strata=list(range(12)))
    with pytest.raises(InputError, match="3 groups for 12"):
        cka_map({"a": a, "b": b}, groups=[1, 2, 3])


def test_errors_are_one_line() -> None:
    x = np.random.default_rng(0).normal(size=(12, 2, 4))
    with pytest.raises(InputError, match="at least two"):
        cka_map({"a": x})
    with pytest.raises(InputError, match="one prompt in all"):
        cka_map({"a": x, "b": x[:9]})
    with pytest.raises(InputError, match="8 or more"):
        debiased_cka(x[:5, 0], x[:5, 0])
    with pytest.raises(InputError, match="numbers of layers"):
        cka_map({"a": x, "b": x[:, :1]})
    with pytest.raises(InputError, match="3 strata"):
        cka_map({"a": x, "b": x}, strata=[1, 2, 3])
