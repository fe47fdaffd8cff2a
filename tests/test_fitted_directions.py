"""Fitted directions: refits in few coordinates, cosine maps and rotations of any estimator."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interp.activations import Activations
from interp.directions import (
    ESTIMATORS,
    ContrastSubspace,
    DirectionSet,
    FittedDirections,
    Leace,
    LogisticProbe,
    MeanDifference,
    Refits,
    WhitenedMeanDifference,
    mean_difference,
)
from interp.errors import InputError
from interp.similarity import cka_map, cosine_map, overlap_map, procrustes_map, rotation
from interp.statistics import Contrast, permuted_weights
from tests.benchmarks.cosine_map import measure
from tests.planted_directions import Planted, planted_change
from tests.test_geometry import D_MODEL, contrast

OFF = ~np.eye(3, dtype=bool)
QUICK = {"splits": 2, "resamples": 0}
BUILT_IN = tuple(ESTIMATORS)
WITHOUT_NULL = ("first_principal_component", "paired_principal_component")


def test_a_subspace_is_not_taken_for_a_direction() -> None:
    found = contrast(np.random.default_rng(0))
    with pytest.raises(InputError, match=r"ContrastSubspace finds .*sp\.MeanDifference\(\)"):
        FittedDirections.of(ContrastSubspace(), {"a": found})


class LabelledMeans:
    """An estimator that sets nothing but its direction."""

    def fit(self, states: np.ndarray, labels: np.ndarray, groups: Sequence[int]) -> LabelledMeans:
        assert len(groups) == len(states)
        self.direction_ = mean_difference(states[labels], states[~labels])
        return self


def labelled(
    *axes: Sequence[float], size: float = 3.0, n: int = 16, layers: int = 2, seed: int = 0
) -> dict[str, Contrast]:
    """Twins; every label's direction is given in coordinates of nearly the same noise."""
    rng = np.random.default_rng(seed)
    found = {}
    for name, start in zip("abcd", axes, strict=False):
        direction = np.zeros(D_MODEL)
        direction[20 : 20 + len(start)] = start
        found[name] = contrast(rng, size * direction, n=n, layers=layers)
    return found


PLANTED = ((1.0,), (0.6, 0.8), (0.0, 0.0, 1.0))


def fits(name: str, contrasts: dict[str, Contrast], **options: object) -> FittedDirections:
    estimator = ESTIMATORS[name].make(**{**QUICK, **options})
    return FittedDirections.of(
        estimator, contrasts, layers=[4, 9], fitted_on="the training split", provenance={"seed": 1}
    )


def test_a_direction_is_asked_for_by_label_and_layer_name(tmp_path: Path) -> None:
    probe = LogisticProbe(**QUICK)
    found = FittedDirections.of(
        probe, labelled(*PLANTED), layers=[4, 9], fitted_on="the training split"
    )
    assert not hasattr(probe, "direction_")
    one = found["b", 9]
    assert one.shape == (D_MODEL,) and np.linalg.norm(one) == pytest.approx(1)
    raw = found.to_set().select("b", 9)
    np.testing.assert_allclose(one, raw / np.linalg.norm(raw))
    with pytest.raises(InputError, match="no direction for 'z'; there are a, b, c"):
        found["z", 9]
    with pytest.raises(InputError, match=r"no direction at layer 0; there are \[4, 9\]"):
        found["a", 0]
    with pytest.raises(InputError, match="a label and a layer"):
        found["a"]  # type: ignore[index]
    for word in ("LogisticProbe", "training split", "a (n = 16)", "4, 9"):
        assert word in repr(found)
    found.to_set().save(tmp_path / "directions.safetensors")
    kept = DirectionSet.load(tmp_path / "directions.safetensors")
    assert kept.provenance["fitted_on"] == "the training split"
    with pytest.raises(InputError, match="there is no estimator"):
        FittedDirections.of("median", labelled(*PLANTED))


def test_permuted_probes_are_scikit_learns() -> None:
    from sklearn.linear_model import LogisticRegression

    one = labelled((1.0,), n=14)["a"]
    refits = Refits.of(LogisticProbe(inverse_penalty=2.0), one)
    labels = permuted_weights(one, 4, np.random.default_rng(0)) > 0
    assert refits.axes is not None
    found = np.einsum("slv,lvd->sld", refits.relabelled(labels), refits.axes)
    for layer in range(2):
        x = one.states[:, layer]
        scale = np.sqrt(x.var(axis=0).mean())
        for draw, label in enumerate(labels):
            model = LogisticRegression(C=2.0, solver="newton-cholesky", tol=1e-10)
            expected = model.fit(x / scale, label).coef_[0] / scale
            error = np.linalg.norm(found[draw, layer] - expected) / np.linalg.norm(expected)
            assert error < 1e-6


@pytest.mark.parametrize("inverse_penalty", [1e-4, 1e4])
def test_probes_of_few_and_of_many_penalties_solve_their_equation(inverse_penalty: float) -> None:
    from interp.directions.logistic import logistic_fits

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 6)) @ np.diag([9, 3, 1, 1, 0.3, 0.1])
    labels, counts = rng.random((5, 30)) < 0.5, rng.integers(0, 3, (5, 30)).astype(float)
    labels[4] = True
    slopes, intercepts = logistic_fits(rows, labels, counts, inverse_penalty)
    assert np.isnan(slopes[4]).all() and np.isnan(intercepts[4])
    probability = 1 / (1 + np.exp(-(slopes @ rows.T + intercepts[:, None])))
    gradient = (inverse_penalty * counts * (probability - labels)) @ rows + slopes
    scale = inverse_penalty * (counts @ np.abs(rows))
    assert (np.abs(gradient[:4]) < 1e-5 * scale[:4]).all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_refits_of_the_labels_as_they_are_are_the_fit(name: str) -> None:
    one = labelled((1.0,))["a"]
    estimator = ESTIMATORS[name].make(**QUICK)
    batched, copied = Refits.of(estimator, one), Refits.of(LabelledMeans(), one)
    fit = estimator.fit(one.states, one.classes == 0, one.units.tolist())
    ((found,),) = (batched.relabelled((one.classes == 0)[None]),)
    assert batched.axes is not None
    np.testing.assert_allclose(
        np.einsum("lv,lvd->ld", found, batched.axes), fit.direction_, rtol=1e-6, atol=1e-8
    )
    assert copied.axes is None and copied.relabelled((one.classes == 0)[None]).shape[0] == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_estimator_has_a_map_with_the_planted_cosine(name: str) -> None:
    found = cosine_map(fits(name, labelled(*PLANTED, n=24)), permutations=40)
    table = found.to_dataframe()
    assert found.layers == (4, 9) and found.measure.startswith("cosine")
    if name in WITHOUT_NULL:
        assert found.draws == 0 and found.no_null and not found.outside_null.any()
        assert np.isnan(found.p).all() and np.isnan(found.null_high).all()
        assert set(table["no_null"]) == {found.no_null}
    else:
        assert not found.no_null and set(table["draws"]) == {40}
        assert np.isfinite(found.p_corrected[:, OFF]).all()
        assert (found.p_corrected >= found.p)[:, OFF].all()
    if name != "first_principal_component":  # it does not know what is planted
        cells = found.defined[:, 0, 1]
        covered = (found.low[:, 0, 1] <= 0.62) & (found.high[:, 0, 1] >= 0.58)
        assert covered[cells].all()
    else:
        assert np.isnan(found.low[:, 0, 1]).all() and "no interval" in found.no_null
    assert (found.reliability <= 1).all()


def test_the_mean_differences_map_is_that_of_its_contrasts() -> None:
    contrasts = labelled(*PLANTED)
    fitted = cosine_map(fits("mean_difference", contrasts), permutations=30, seed=2)
    plain = cosine_map(contrasts, layers=[4, 9], permutations=30, seed=2)
    np.testing.assert_equal(vars(fitted), vars(plain))


def test_an_estimator_that_sets_only_its_direction_is_refitted_by_copies() -> None:
    contrasts = labelled(*PLANTED, n=12)
    found = cosine_map(FittedDirections.of(LabelledMeans(), contrasts), permutations=20)
    assert found.draws == 20 and found.measure == "cosine, LabelledMeans"
    # What it finds is the mean difference, whose cosines are known in closed form.
    expected = cosine_map(contrasts, permutations=20)
    np.testing.assert_allclose(found.value[:, 0, 1], expected.value[:, 0, 1], atol=0.05)
    np.testing.assert_allclose(found.low[:, 0, 1], expected.low[:, 0, 1], atol=0.15)


def test_probes_of_unrelated_labels_are_seldom_called_related() -> None:
    """40 maps of 3 pairs, noise alone: family-wise some 2 of them at the .05 level."""
    wrong = 0
    for seed in range(40):
        noise = labelled((0.0,), (0.0,), (0.0,), n=8, layers=1, seed=seed)
        probe = LogisticProbe(splits=1, resamples=0)
        found = cosine_map(FittedDirections.of(probe, noise), permutations=40, seed=seed)
        wrong += bool((found.p_corrected[:, OFF] < 0.05).any())
    assert wrong <= 6


def test_twins_stay_together_in_halves_and_when_prompts_are_left_out() -> None:
    class Watching(LabelledMeans):
        def fit(self, states: np.ndarray, labels: np.ndarray, groups: Sequence[int]) -> Watching:
            assert (np.bincount(groups)[np.unique(groups)] == 2).all()
            assert all(labels[np.array(groups) == group].sum() == 1 for group in set(groups))
            super().fit(states, labels, groups)
            return self

    one = labelled((1.0,), n=8)["a"]
    replicates = Refits.of(Watching(), one).replicates()
    assert replicates.influence.shape == (2, 8, D_MODEL)
    many = Contrast(*np.random.default_rng(0).normal(size=(2, 150, 1, 4)))
    assert (np.bincount(Refits.of(MeanDifference(), many).replicates().kind) == [100, 0, 100]).all()


def test_the_influence_on_a_mean_difference_is_its_noise() -> None:
    one = labelled((1.0,), n=30)["a"]
    found = Refits.of(MeanDifference(), one).replicates()
    differences = one.positive - one.negative
    expected = differences.var(axis=0, ddof=1).sum(axis=-1) / 30
    np.testing.assert_allclose((found.influence**2).sum(axis=(1, 2)), expected, rtol=0.05)
    np.testing.assert_allclose(found.direction, differences.mean(axis=0), atol=1e-9)


def test_vectors_from_disk_give_values_and_no_null() -> None:
    found = cosine_map(fits("whitened_mean_difference", labelled(*PLANTED)).to_set())
    assert found.measure == "plain cosine, WhitenedMeanDifference" and found.layers == (4, 9)
    assert np.isfinite(found.value).all() and "cannot be fitted again" in found.no_null
    for name in ("low", "high", "null_low", "null_high", "p", "p_corrected"):
        assert np.isnan(getattr(found, name)).all()
    assert set(found.to_dataframe()["no_null"]) == {found.no_null}
    figure = found.plot(layer=9)
    assert "no null" in figure.axes[-1].get_ylabel().replace("\n", " ")
    assert found.no_null in figure.get_supxlabel().replace("\n", " ")
    coloured = figure.axes[0].images[1].get_array()
    np.testing.assert_array_equal(~np.ma.getmaskarray(coloured), OFF)


def test_the_figure_says_how_many_draws_the_null_has() -> None:
    figure = cosine_map(labelled(*PLANTED), permutations=1234).plot(layer=1)
    assert "1,234 permutations" in figure.axes[-1].get_ylabel().replace("\n", " ")


@pytest.mark.parametrize("name", ["logistic_probe", "whitened_mean_difference", "leace"])
@pytest.mark.parametrize("same_prompts", [True, False])
def test_a_planted_rotation_of_a_probe_is_found(name: str, same_prompts: bool) -> None:
    for angle in (0.0, 90.0):
        sides = planted_change(
            Planted(angle), snr=2.0, n=24, same_prompts=same_prompts, worlds=2, seed=3
        )
        before, after = (fits(name, {"a": side}) for side in sides)
        found = rotation(before, after, same_prompts=same_prompts)
        rotated = found["a"]
        assert rotated.layers == (4, 9) and rotated.undefined
        assert not rotated.gain.defined.any() and np.isnan(rotated.offset.value).all()
        assert rotated.angle_degrees.defined.all()
        outside = rotated.angle_degrees.low > rotated.angle_degrees.null_high
        assert outside.all() if angle else not outside.any()
        table = found.to_dataframe()
        assert set(table["label"]) == {"a"} and len(table) == 2 * 5
    assert found.plot() is not None and found.plot("gain") is not None
    with pytest.raises(InputError, match="no rotation of 'z'"):
        found["z"]


def test_a_mean_differences_rotations_are_those_of_its_contrasts() -> None:
    sides = planted_change(Planted(30.0), snr=2.0, n=16, same_prompts=True, worlds=2, seed=3)
    before, after = (fits("mean_difference", {"a": side}) for side in sides)
    expected = rotation(*sides, layers=[4, 9])
    np.testing.assert_equal(
        [vars(part) for part in rotation(before, after)["a"].estimates.values()],
        [vars(part) for part in expected.estimates.values()],
    )
    assert not expected.undefined


def test_rotations_of_other_fits_are_refused() -> None:
    contrasts = labelled(*PLANTED)
    probe, other = fits("logistic_probe", contrasts), fits("leace", contrasts)
    with pytest.raises(InputError, match="by the same estimator"):
        rotation(probe, other)
    with pytest.raises(InputError, match="by the same estimator"):
        rotation(probe, fits("logistic_probe", contrasts, inverse_penalty=3.0))
    with pytest.raises(InputError, match="labels"):
        rotation(probe, fits("logistic_probe", {"a": contrasts["a"]}))
    with pytest.raises(InputError, match="give fitted directions"):
        rotation(probe, probe.to_set())  # type: ignore[call-overload]
    # Labels are found by their names, and layers by their places.
    turned = fits("logistic_probe", dict(reversed(contrasts.items())))
    assert set(rotation(probe, turned)) == set(contrasts)
    for layers in ([9, 4], [4, 7]):
        with pytest.raises(InputError, match="layers"):
            rotation(probe, FittedDirections.of(probe.estimator, contrasts, layers=layers))


def test_subspaces_take_the_contrasts_of_fitted_directions() -> None:
    contrasts = labelled(*PLANTED)
    options = {"permutations": 20, "resamples": 2}
    found = overlap_map(fits("mean_difference", contrasts), **options)
    expected = overlap_map(contrasts, layers=[4, 9], **options)
    np.testing.assert_equal(found.value, expected.value)
    assert found.layers == (4, 9) and found.draws == 20


def test_alignment_takes_activations() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(20, 2, 12))

    def activations(states: np.ndarray) -> Activations:
        tokens = np.zeros((20, 1), dtype=int)
        return Activations(
            {"residual": states[:, :, None]}, (4, 9), tuple(range(20)), tokens, "float32"
        )

    arrays = {"base": states, "after": states + rng.normal(size=states.shape)}
    collected = {name: activations(of_model) for name, of_model in arrays.items()}
    for alignment in (
        lambda models, **names: cka_map(models, permutations=20, **names),
        lambda models, **names: procrustes_map(models, draws=20, **names),
    ):
        found, expected = alignment(collected), alignment(arrays, layers=[4, 9])
        np.testing.assert_equal(vars(found), vars(expected))
        assert found.layers == (4, 9) and found.draws == 20
        other = replace(collected["after"], ids=tuple(range(1, 21)))
        with pytest.raises(InputError, match="different ids in base, after"):
            alignment({**collected, "after": other})


def test_leace_reads_one_way_whatever_its_classes_are_called() -> None:
    one = labelled((1.0,))["a"]
    positive = one.classes == 0
    fit = Leace(**QUICK).fit(one.states, positive)
    named = Leace(**QUICK).fit(one.states, np.where(positive, "yes", "no"))
    np.testing.assert_allclose(fit.direction_, named.direction_)
    assert (
        np.einsum("ld,ld->l", fit.direction_, mean_difference(one.positive, one.negative)) > 0
    ).all()
    np.testing.assert_allclose(fit.direction_, fit.eraser_.reads[..., 0] * np.sign(
        np.einsum("ld,ld->l", fit.direction_, fit.eraser_.reads[..., 0])
    )[:, None], atol=1e-9)  # fmt: skip


def test_the_benchmark_of_the_map_runs() -> None:
    found = measure(permutations=4, sample=2, labels=2, layers=1, width=12, side=6)
    assert set(found) == {"fit", "map", "scikit_learn", "products"}
    assert min(found.values()) > 0


def test_a_discriminant_of_states_that_do_not_vary_is_zero() -> None:
    states = np.zeros((12, 1, 3))
    labels = np.arange(12) < 6
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        fit = WhitenedMeanDifference(**QUICK).fit(states, labels)
    assert (fit.direction_ == 0).all()
