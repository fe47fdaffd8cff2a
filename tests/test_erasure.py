"""LEACE: what the theorem says, on the fitted states, and what it is worth on others."""

from __future__ import annotations

import numpy as np
import pytest

from interp.directions import Leace, MeanDifference, WhitenedMeanDifference
from interp.errors import InputError

N, LAYERS, D_MODEL = 120, 2, 12


def world(classes: int, n: int = N, d_model: int = D_MODEL, seed: int = 0) -> tuple:
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(LAYERS, d_model, d_model))
    labels = np.arange(n) % classes
    states = np.einsum("pld,lde->ple", rng.normal(size=(n, LAYERS, d_model)), mixing)
    return states + 3 * np.random.default_rng(9).normal(size=(classes, 1, d_model))[labels], labels


def class_means(states: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([states[labels == c].mean(0) for c in np.unique(labels)])


@pytest.mark.parametrize("shrink", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
def test_class_means_are_equal_and_the_map_is_a_projection(classes: int, shrink: bool) -> None:
    states, labels = world(classes)
    erase = Leace(shrink=shrink, splits=1, resamples=0).fit(states, labels).eraser_
    erased = erase(states)
    means = class_means(erased, labels)
    np.testing.assert_allclose(means - means[0], 0, atol=1e-8)
    np.testing.assert_allclose(erased.mean(0), states.mean(0), atol=1e-8)
    np.testing.assert_allclose(erase(erased), erased, atol=1e-8)
    identity = erase.writes @ erase.reads
    np.testing.assert_allclose(identity, np.tile(np.eye(classes - 1), (LAYERS, 1, 1)), atol=1e-8)
    change = (states - erased).transpose(1, 0, 2)
    assert (np.linalg.matrix_rank(change, tol=1e-6) <= classes - 1).all()


def test_no_linear_probe_finds_the_label_again() -> None:
    from sklearn.linear_model import LogisticRegression

    states, labels = world(2)
    assert LogisticRegression().fit(states[:, 0], labels).score(states[:, 0], labels) > 0.9
    erased = Leace(splits=1, resamples=0).fit(states, labels).eraser_(states)[:, 0]
    probe = LogisticRegression(C=1e6, max_iter=5000).fit(erased, labels)
    np.testing.assert_allclose(probe.predict_proba(erased), 0.5, atol=1e-3)


def test_no_other_eraser_changes_less_in_any_inner_product() -> None:
    """Every affine eraser of rank one subtracts δ b·(x - mean) / b·δ for some b: try many."""
    states, labels = world(2)
    erase = Leace(shrink=False, splits=1, resamples=0).fit(states, labels).eraser_
    rng = np.random.default_rng(1)
    for layer in range(LAYERS):
        x = states[:, layer] - states[:, layer].mean(0)
        delta = x[labels == 1].mean(0) - x[labels == 0].mean(0)
        near = [erase.reads[layer, :, 0] + 0.05 * rng.normal(size=D_MODEL) for _ in range(50)]
        for b in [delta, *near, *rng.normal(size=(50, D_MODEL))]:
            other = np.outer(x @ b, delta) / (b @ delta)
            ours = x @ erase.reads[layer] @ erase.writes[layer]
            for metric in (np.eye(D_MODEL), rng.normal(size=(D_MODEL, D_MODEL))):
                assert np.square(ours @ metric).sum() <= np.square(other @ metric).sum() + 1e-9


def test_with_two_classes_it_reads_the_discriminant_and_writes_the_mean_difference() -> None:
    states, labels = world(2, n=500)
    fitted = Leace(splits=1, resamples=0).fit(states, labels)
    mean = MeanDifference(splits=1, resamples=0).fit(states, labels == 1).unit_direction_
    read = WhitenedMeanDifference(splits=1, resamples=0).fit(states, labels == 1).unit_direction_
    for ours, theirs in ((fitted.eraser_.writes[:, 0], mean), (fitted.eraser_.reads[..., 0], read)):
        cosine = np.einsum("ld,ld->l", ours, theirs) / np.linalg.norm(ours, axis=1)
        np.testing.assert_allclose(abs(cosine), 1, atol=5e-3)


def test_more_dimensions_than_prompts_and_classes_that_do_not_differ() -> None:
    states, labels = world(3, n=30, d_model=100)
    fitted = Leace(splits=4, resamples=0).fit(states, labels)
    means = class_means(fitted.eraser_(states), labels)
    np.testing.assert_allclose(means - means[0], 0, atol=1e-7)
    # A third class with the mean of the first: there is one dimension to erase, not two.
    rng = np.random.default_rng(0)
    half = rng.normal(size=(10, LAYERS, D_MODEL))
    alike = np.concatenate([half, half + 2.0, half])
    erase = Leace(splits=1, resamples=0).fit(alike, np.repeat([0, 1, 2], 10)).eraser_
    assert (np.linalg.matrix_rank(erase.reads @ erase.writes, tol=1e-6) == 1).all()


def test_shrinking_erases_better_on_other_prompts() -> None:
    left = {}
    for shrink in (True, False):
        states, labels = world(2, n=60, d_model=50)
        other, other_labels = world(2, n=2000, d_model=50, seed=0)
        other = other[60:]
        erase = Leace(shrink=shrink, splits=1, resamples=0).fit(states, labels).eraser_
        difference = np.diff(class_means(erase(other), other_labels[60:]), axis=0)
        left[shrink] = np.linalg.norm(difference)
    assert np.isfinite(left[True]) and left[True] < left[False]


def test_reliability_is_that_of_what_is_read() -> None:
    states, labels = world(2, n=400)
    clear = Leace(resamples=10).fit(states, labels)
    assert (clear.reliability_ > 0.7).all()
    noise = np.random.default_rng(0).normal(size=(80, 40, D_MODEL))
    silent = Leace(splits=10, resamples=0).fit(noise, np.arange(80) % 2)
    assert (silent.reliability_**2).mean() == pytest.approx(1 / D_MODEL, abs=0.05)


def test_copies_of_a_prompt_are_no_evidence_for_what_is_read() -> None:
    """Named as groups they fall into one half together, and noise stays noise."""
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(40, 10, D_MODEL))
    labels = np.arange(40) % 2
    copies, of_copies = (np.repeat(x, 4, axis=0) for x in (noise, labels))
    groups = list(np.repeat(np.arange(40), 4))
    settings = {"splits": 10, "resamples": 0}
    once = Leace(**settings).fit(noise, labels)
    together = Leace(**settings).fit(copies, of_copies, groups)
    apart = Leace(**settings).fit(copies, of_copies)
    assert apart.reliability_.mean() > together.reliability_.mean() + 0.2
    assert together.reliability_.mean() == pytest.approx(once.reliability_.mean(), abs=0.1)


def test_groups_of_different_sizes_are_halved_at_random() -> None:
    rng = np.random.default_rng(0)
    units = np.repeat(np.arange(12), np.arange(1, 13))
    states, labels = rng.normal(size=(len(units), 2, 16)), units % 2

    def fitted(seed: int) -> Leace:
        return Leace(splits=3, resamples=20, seed=seed).fit(states, labels, units.tolist())

    one, two = fitted(0), fitted(1)
    assert (one.reliability_ != two.reliability_).all()
    assert (one.reliability_low_ < one.reliability_).all()


def test_units_that_all_hold_other_classes_have_no_interval() -> None:
    """Seven units with every combination of three classes: no two are of one kind."""
    kinds = [[c for c in range(3) if kind >> c & 1] for kind in range(1, 8)]
    labels = np.concatenate(kinds)
    units = np.repeat(np.arange(7), list(map(len, kinds)))
    states = np.random.default_rng(0).normal(size=(len(units), 1, 8))
    found = Leace(splits=2, resamples=4).fit(states, labels, units.tolist())
    assert np.isfinite(found.reliability_).all() and np.isnan(found.reliability_low_).all()


def test_copies_of_one_prompt_are_one_prompt_of_its_class() -> None:
    states, labels = world(2, n=8)
    groups = [None if label else "one" for label in np.sort(labels).tolist()]
    with pytest.raises(InputError, match=r"\[1, 4\] separate prompts"):
        Leace().fit(states, np.sort(labels), groups)


def test_errors_are_one_line() -> None:
    states, labels = world(2)
    with pytest.raises(InputError, match="two classes or more"):
        Leace().fit(states, np.zeros(N))
    with pytest.raises(InputError, match="7 labels for 120"):
        Leace().fit(states, labels[:7])
    erase = Leace(splits=1, resamples=0).fit(states, labels).eraser_
    with pytest.raises(InputError, match="collect the layers"):
        erase(states[:, :1])
