"""Streamed moments are those of the whole, however it is cut, and take no more room for more."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.activations import HEADS, MLP_OUT, collect, post_instruction
from interp.activations.moments import Moments, MomentsAccumulator
from interp.activations.positions import every_token
from interp.activations.streaming import collect_moments
from interp.errors import InputError
from interp.model import LanguageModel

Checkpoints = Callable[[str], Path]

LAYERS, POSITIONS, D_MODEL = 2, 3, 4


def block(rows: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """States far from zero, of three labels, some of which lack their first positions."""
    rng = np.random.default_rng(seed)
    labels = [str(label) for label in rng.choice(["a", "b", "c"], rows)]
    states = rng.normal(size=(rows, LAYERS, POSITIONS, D_MODEL)) @ rng.normal(size=(4, 4))
    states += 100.0 + 10 * np.array([ord(label) for label in labels])[:, None, None, None]
    for row, missing in enumerate(rng.integers(0, 2, rows)):
        states[row, :, :missing] = np.nan
    return states.astype(np.float32), labels


def of_the_whole(states: np.ndarray, labels: list[str]) -> dict[str, np.ndarray]:
    """Means and covariances by their definitions, in float64."""
    states, names = states.astype(np.float64), np.array(labels)
    groups = [
        (label, j, states[names == label, :, j])
        for label in dict.fromkeys(labels)
        for j in range(POSITIONS)
    ]
    groups = [(label, j, rows[~np.isnan(rows[:, 0, 0])]) for label, j, rows in groups]
    found = {f"{label} {j}": rows.mean(axis=0) for label, j, rows in groups if len(rows)}
    for name in ["pooled", *dict.fromkeys(labels)]:
        mine = [rows for label, _, rows in groups if name in ("pooled", label) and len(rows) > 1]
        freedom = sum(len(rows) - 1 for rows in mine)
        scatter = sum(
            np.einsum("nld,nle->lde", rows - rows.mean(axis=0), rows - rows.mean(axis=0))
            for rows in mine
        )
        if freedom:
            found[f"covariance {name}"] = scatter / freedom
    return found


def assert_whole(moments: Moments, states: np.ndarray, labels: list[str]) -> None:
    wanted = of_the_whole(states, labels)
    assert set(moments.labels) == set(labels)
    assert moments.label_covariances is not None
    for i, label in enumerate(moments.labels):
        for j in range(POSITIONS):
            if moments.counts[i, j]:
                found = moments.mean(label)[:, j]
                np.testing.assert_allclose(found, wanted[f"{label} {j}"], rtol=1e-12)
            else:
                assert f"{label} {j}" not in wanted and np.isnan(moments.means[i, :, j]).all()
        if f"covariance {label}" in wanted:
            np.testing.assert_allclose(
                moments.label_covariances[i], wanted[f"covariance {label}"], rtol=1e-8, atol=1e-8
            )
        else:
            assert np.isnan(moments.label_covariances[i]).all()
    if "covariance pooled" in wanted:
        np.testing.assert_allclose(
            moments.covariance, wanted["covariance pooled"], rtol=1e-8, atol=1e-8
        )


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), seed=st.integers(0, 999))
def test_any_cut_gives_the_moments_of_the_whole(sizes: list[int], seed: int) -> None:
    states, labels = block(sum(sizes), seed)
    cuts = np.cumsum([0, *sizes])
    updated = MomentsAccumulator(label_covariances=True)
    merged = MomentsAccumulator(label_covariances=True)
    for start, stop in pairwise(cuts):
        updated.update(states[start:stop], labels[start:stop])
        part = MomentsAccumulator(label_covariances=True)
        merged.merge(part.update(states[start:stop], labels[start:stop]))
    assert_whole(updated.result(), states, labels)
    assert_whole(merged.result(), states, labels)


def test_blocks_with_fewer_positions_are_aligned_at_the_end() -> None:
    states, labels = block(20, seed=0)
    states[10:, :, :2] = np.nan
    for order in ([0, 1], [1, 0]):
        accumulator = MomentsAccumulator(label_covariances=True)
        merged = MomentsAccumulator(label_covariances=True)
        for half in order:
            rows = slice(10 * half, 10 * half + 10)
            some = states[rows, :, 2 * half :], labels[rows]
            accumulator.update(*some)
            merged.merge(MomentsAccumulator(label_covariances=True).update(*some))
        assert_whole(accumulator.result(), states, labels)
        assert_whole(merged.result(), states, labels)


def test_a_large_mean_costs_no_digits() -> None:
    """Sums of squares around zero would leave nothing of the covariance here."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(400, 1, 1, 3))
    accumulator = MomentsAccumulator()
    for part in np.split(noise + 1e8, 20):
        accumulator.update(part, ["a"] * 20)
    wanted = np.cov(noise[:, 0, 0].T)
    assert accumulator.result().covariance[0] == pytest.approx(wanted, rel=1e-6)


def test_differences_between_labels_are_not_in_the_pooled_covariance() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2000, 1, 1, 3))
    labels = ["near", "far"] * 1000
    shifted = noise + np.where(np.arange(2000) % 2, 50.0, 0.0)[:, None, None, None]
    found = MomentsAccumulator().update(shifted, labels).result()
    assert found.covariance[0] == pytest.approx(np.eye(3), abs=0.1)
    assert found.label_covariances is None
    assert found.mean("far") - found.mean("near") == pytest.approx(50.0, abs=0.2)


def test_unusable_blocks_are_refused() -> None:
    states, labels = block(4, seed=0)
    with pytest.raises(InputError, match="4 labels; expected"):
        MomentsAccumulator().update(states[:3], labels)
    with pytest.raises(InputError, match="no states so far"):
        MomentsAccumulator().result()
    accumulator = MomentsAccumulator().update(states, labels)
    with pytest.raises(InputError, match="2 layers and width 3 after 2 layers of width 4"):
        accumulator.update(states[..., :3], labels)
    with pytest.raises(InputError, match="no covariances of single labels"):
        MomentsAccumulator(label_covariances=True).merge(accumulator)
    with pytest.raises(InputError, match="no prompts labelled 'z'"):
        accumulator.result().mean("z")


# From a model


def prompts(count: int) -> Iterator[str]:
    """Of lengths that come in no order."""
    rng = np.random.default_rng(0)
    return (" ".join(["bread"] * int(rng.integers(1, 30))) for _ in range(count))


@pytest.mark.parametrize("site", [MLP_OUT, HEADS])
def test_streamed_states_are_those_collected(checkpoint_of: Checkpoints, site: object) -> None:
    """More than one window of prompts, whose numbers of positions differ."""
    lm = LanguageModel.load(checkpoint_of("llama"))
    texts, labels = list(prompts(40)), ["short", "long", "long", "odd"] * 10
    positions = every_token("post_instruction")
    whole = collect(lm, texts, sites=[site], positions=positions)[site]
    whole = whole.reshape(*whole.shape[:3], -1)
    sizes: list[str] = []
    found = collect_moments(
        lm,
        iter(texts),
        iter(labels),
        site=site,
        positions=positions,
        batch_size=2,
        label_covariances=True,
        announce=sizes.append,
    )
    wanted = MomentsAccumulator(label_covariances=True).update(whole, labels).result(range(4))
    assert found.layers == wanted.layers and set(found.labels) == set(wanted.labels)
    assert found.covariance == pytest.approx(wanted.covariance, rel=1e-4, abs=1e-7)
    for label in found.labels:
        assert found.mean(label) == pytest.approx(wanted.mean(label), rel=1e-5, abs=1e-6)
    assert len(sizes) == 1 and "3 labels at 4 layers" in sizes[0]


def test_prompts_without_labels_are_refused(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    for texts, labels in ((["a", "b"], ["x"]), (["a"], ["x", "y"])):
        with pytest.raises(InputError, match="not as many labels as prompts"):
            collect_moments(lm, texts, labels)
    with pytest.raises(InputError, match="no prompts to collect moments for"):
        collect_moments(lm, [], [])


def test_memory_does_not_grow_with_the_number_of_prompts(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))

    def peak(count: int) -> int:
        tracemalloc.start()
        labels = ("ab"[i % 2] for i in range(count))
        positions = post_instruction
        collect_moments(lm, prompts(count), labels, positions=positions, batch_size=4)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(64)  # what is loaded once
    assert peak(640) <= 1.1 * peak(128)
