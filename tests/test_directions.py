"""Directions: signs, lengths, parity, reliability, files, disjoint controls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from interp.directions import (
    DirectionSet,
    FirstPrincipalComponent,
    MeanDifference,
    disjoint_controls,
)
from interp.errors import InputError
from interp.statistics import Contrast

N, D_MODEL = 30, 16


def table(signal: float, layers: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list]:
    """States, labels and matched pairs' groups; the direction is the first axis."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(2 * N, layers, D_MODEL)) + 5.0
    labels = np.arange(2 * N) % 2 == 0
    states[labels, :, 0] += signal
    return states, labels, list(np.arange(2 * N) // 2)


def test_mean_difference_points_to_the_positives_with_its_raw_length() -> None:
    states, labels, groups = table(4.0)
    fitted = MeanDifference(resamples=0).fit(states, labels, groups)
    expected = states[labels].mean(axis=0) - states[~labels].mean(axis=0)
    np.testing.assert_allclose(fitted.direction_, expected)
    np.testing.assert_allclose(np.linalg.norm(fitted.unit_direction_, axis=1), 1)
    assert (fitted.direction_[:, 0] > 3).all()
    assert fitted.n_ == N
    assert np.isnan(fitted.reliability_low_).all()


def test_principal_component_agrees_with_scikit_learn_up_to_the_sign() -> None:
    from sklearn.decomposition import PCA

    states, labels, _ = table(0.0)
    states[..., 3] *= 4
    fitted = FirstPrincipalComponent(resamples=0).fit(states, labels)
    for layer in range(3):
        reference = PCA(1).fit(states[labels, layer])
        cosine = reference.components_[0] @ fitted.direction_[layer]
        assert abs(cosine) == pytest.approx(1, abs=1e-9)
        assert fitted.explained_variance_ratio_[layer] == pytest.approx(
            reference.explained_variance_ratio_[0]
        )
    assert (np.einsum("ld,ld->l", fitted.direction_, states[labels].mean(axis=0)) > 0).all()
    flipped = FirstPrincipalComponent(resamples=0).fit(-states, labels)
    np.testing.assert_allclose(flipped.direction_, -fitted.direction_, atol=1e-9)


def test_principal_component_ignores_the_negatives() -> None:
    states, labels, _ = table(1.0)
    fitted = FirstPrincipalComponent(resamples=0).fit(states, labels)
    alone = FirstPrincipalComponent(resamples=0).fit(states[labels])
    np.testing.assert_array_equal(fitted.direction_, alone.direction_)


@pytest.mark.parametrize("estimator", [MeanDifference, FirstPrincipalComponent])
def test_reliability_is_zero_on_noise_and_one_where_there_is_no_noise(estimator: type) -> None:
    states, labels, groups = table(0.0, layers=100)
    centred = states - states[labels].mean(axis=0)
    # The component's sign is set by the mean, so that no mean means no lasting sign.
    noise = estimator(resamples=50).fit(centred, labels, groups)
    assert abs(noise.reliability_.mean()) < 0.1
    assert (noise.reliability_low_ <= 0.3).all()
    strong, labels, groups = table(40.0)
    strong[..., 0] += 50 * np.random.default_rng(1).normal(size=(2 * N, 1))
    assert (estimator(resamples=50).fit(strong, labels, groups).reliability_ > 0.5).all()


def test_pairs_are_kept_together() -> None:
    """Noise that pairs share cancels in their difference, but only if halves keep both."""
    states, labels, groups = table(1.0, layers=20)
    rng = np.random.default_rng(2)
    states += 10 * np.repeat(rng.normal(size=(N, 20, D_MODEL)), 2, axis=0)
    together = MeanDifference(resamples=0).fit(states, labels, groups).reliability_.mean()
    apart = MeanDifference(resamples=0).fit(states, labels).reliability_.mean()
    assert together > apart + 0.2


def test_fit_is_deterministic() -> None:
    states, labels, groups = table(1.0)
    one, two = (MeanDifference(seed=5).fit(states, labels, groups) for _ in range(2))
    np.testing.assert_array_equal(one.reliability_high_, two.reliability_high_)


def test_unusable_activations_are_refused() -> None:
    states, labels, groups = table(1.0)
    with pytest.raises(InputError, match="60 prompts; give one"):
        MeanDifference().fit(states, labels[:-1], groups)
    with pytest.raises(InputError, match="2 separate positive prompts"):
        MeanDifference().fit(states, np.arange(2 * N) < 2)
    with pytest.raises(InputError, match="3 positive prompts"):
        FirstPrincipalComponent().fit(states[:3])
    states[4, 0, 0] = np.inf
    with pytest.raises(InputError, match="NaN or infinite"):
        MeanDifference().fit(states, labels, groups)
    with pytest.raises(InputError, match="NaN or infinite"):
        FirstPrincipalComponent().fit(states)


def directions() -> DirectionSet:
    rng = np.random.default_rng(0)
    return DirectionSet(
        labels=("ä", "b"),
        layers=(0, 3, 5),
        vectors=rng.normal(size=(2, 3, 8)).astype(np.float32),
        reliability=rng.uniform(size=(2, 3)),
        estimator="MeanDifference",
        provenance={"model": "organism", "seed": 1, "prompts": ["é"]},
        n=np.array([7, 9]),
    )


def test_directions_survive_the_disk(tmp_path: Path) -> None:
    kept = directions()
    kept.save(tmp_path / "directions.safetensors")
    found = DirectionSet.load(tmp_path / "directions.safetensors")
    np.testing.assert_array_equal(found.vectors, kept.vectors)
    for name in ("reliability", "reliability_low", "reliability_high", "n"):
        np.testing.assert_array_equal(getattr(found, name), getattr(kept, name))
    assert (found.labels, found.layers) == (kept.labels, kept.layers)
    assert (found.estimator, found.provenance) == (kept.estimator, kept.provenance)
    assert [p.name for p in tmp_path.iterdir()] == ["directions.safetensors"]


def test_a_damaged_file_is_one_clear_line(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "directions.safetensors"
    with pytest.raises(InputError, match="is not there"):
        DirectionSet.load(path)
    directions().save(path)
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="damaged"):
            DirectionSet.load(path)
    save_file({"weights": np.zeros(3)}, path)
    with pytest.raises(InputError, match="damaged or holds no directions"):
        DirectionSet.load(path)
    with pytest.raises(InputError, match="cannot be read|damaged"):
        DirectionSet.load(tmp_path)


def test_select_and_table() -> None:
    kept = directions()
    np.testing.assert_array_equal(kept.select("b", 5), kept.vectors[1, 2])
    with pytest.raises(InputError, match="no direction for 'c'"):
        kept.select("c", 0)
    with pytest.raises(InputError, match="layer 1"):
        kept.select("b", 1)
    frame = kept.to_dataframe()
    assert list(frame.columns) == [
        *("label", "layer", "estimator", "norm", "reliability"),
        *("reliability_low", "reliability_high", "error_degrees", "n"),
    ]
    assert len(frame) == 6
    some = kept.subset(labels=["b"], layers=[5, 0])
    assert (some.labels, some.layers, some.n.tolist()) == (("b",), (5, 0), [9])
    np.testing.assert_array_equal(some.select("b", 0), kept.select("b", 0))
    with pytest.raises(InputError, match="layer 1"):
        kept.subset(layers=[1])
    assert frame["norm"].iloc[5] == pytest.approx(np.linalg.norm(kept.vectors[1, 2]))


def test_a_set_is_fitted_to_every_label() -> None:
    tables = {name: table(size, seed=i) for i, (name, size) in enumerate([("a", 1), ("b", 9)])}
    contrasts = {name: Contrast.from_labels(*of_label) for name, of_label in tables.items()}
    found = DirectionSet.fitted(MeanDifference(resamples=20), contrasts, layers=[2, 4, 6])
    assert (found.estimator, found.layers, found.n.tolist()) == (
        "MeanDifference",
        (2, 4, 6),
        [N, N],
    )
    for name, (states, labels, groups) in tables.items():
        alone = MeanDifference(resamples=20).fit(states, labels, groups)
        np.testing.assert_allclose(found.select(name, 4), alone.direction_[1])
    frame = found.to_dataframe()
    assert (frame["reliability_low"] < frame["reliability"]).all()
    error = frame.groupby("label")["error_degrees"].mean()
    assert error["b"] < error["a"]
    with pytest.raises(InputError, match="no contrasts"):
        DirectionSet.fitted(MeanDifference(), {})


def test_files_without_intervals_are_read(tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    path = tmp_path / "directions.safetensors"
    directions().save(path)
    with safe_open(path, framework="numpy") as file:
        about = file.metadata()
        kept = {name: file.get_tensor(name) for name in ("vectors", "reliability")}
    save_file(kept, path, metadata=about)
    found = DirectionSet.load(path)
    assert np.isnan(found.reliability_low).all() and found.n.tolist() == [0, 0]


def test_ill_shaped_sets_are_refused() -> None:
    with pytest.raises(InputError, match="expected \\(label, layer, d_model\\)"):
        DirectionSet(("a",), (0,), np.zeros((2, 1, 4)), np.zeros((1, 1)), "MeanDifference")
    with pytest.raises(InputError, match="NaN"):
        DirectionSet(("a",), (0,), np.full((1, 1, 4), np.nan), np.zeros((1, 1)), "MeanDifference")


def test_controls_are_disjoint_whole_and_even() -> None:
    shares = disjoint_controls(50, ["a", "b", "c"], seed=0)
    rows = np.concatenate(list(shares.values()))
    assert sorted(rows) == list(range(50))
    assert {len(share) for share in shares.values()} == {16, 17}
    again = disjoint_controls(50, ["a", "b", "c"], seed=0)
    other = disjoint_controls(50, ["a", "b", "c"], seed=1)
    assert all(np.array_equal(shares[k], again[k]) for k in shares)
    assert not all(np.array_equal(shares[k], other[k]) for k in shares)


def test_linked_controls_go_to_the_same_label() -> None:
    groups = [None, None, *np.repeat(np.arange(9), 2), float("nan"), float("nan")]
    shares = disjoint_controls(len(groups), ["a", "b"], seed=0, groups=groups)
    owner = {row: label for label, share in shares.items() for row in share}
    assert len(owner) == len(groups)
    assert all(owner[2 + 2 * g] == owner[3 + 2 * g] for g in range(9))
    with pytest.raises(InputError, match="3 labels"):
        disjoint_controls(4, ["a", "b", "c"], seed=0, groups=[0, 0, 1, 1])
    with pytest.raises(InputError, match="once"):
        disjoint_controls(4, ["a", "a"], seed=0)
