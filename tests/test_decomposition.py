"""Source effect, target effect and interaction: exact on planted tables, calibrated under noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyses.runs import decompose
from interp.errors import InputError

NAMES = np.array(list("abcdefg"))


def _cells(matrix: np.ndarray) -> pd.DataFrame:
    """Cells off the diagonal of (seed, source, target)."""
    rows = [
        (NAMES[i], NAMES[j], seed, value)
        for seed, replicate in enumerate(matrix)
        for (i, j), value in np.ndenumerate(replicate)
        if i != j
    ]
    return pd.DataFrame(rows, columns=["source", "target", "seed", "value"])


def _effects(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    alpha, gamma = rng.normal(size=(2, 7))
    return alpha - alpha.mean(), gamma - gamma.mean()


def test_planted_effects_are_recovered_without_the_diagonal_and_with_holes():
    alpha, gamma = _effects(np.random.default_rng(0))
    cells = _cells((2.0 + alpha[:, None] + gamma)[None])
    found = decompose(cells.drop(cells.index[[3, 11, 25]]))
    assert found.mean == pytest.approx(2.0)
    assert list(found.source_effect.values()) == pytest.approx(alpha.tolist())
    assert list(found.target_effect.values()) == pytest.approx(gamma.tolist())
    assert found.interaction_share == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("which", ["source_effect", "target_effect", "interaction"])
def test_each_part_alone_takes_the_whole_share(which):
    rng = np.random.default_rng(1)
    alpha, _ = _effects(rng)
    delta = rng.normal(size=(7, 7))
    matrix = {
        "source_effect": np.repeat(alpha[:, None], 7, 1),
        "target_effect": np.repeat(alpha[None], 7, 0),
        "interaction": decompose(_cells(delta[None])).interaction,
    }[which]
    # The residual of noise, already a table of cells, has no main effects left.
    cells = matrix if which == "interaction" else _cells(matrix[None])
    found = decompose(cells)
    shares = {
        "source_effect": found.source_effect_share,
        "target_effect": found.target_effect_share,
        "interaction": found.interaction_share,
    }
    # Without the diagonal a pure source effect still tilts the targets' means a little.
    assert shares[which] > 0.97 and sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("shared", [0.0, 1.0])
def test_noise_is_not_taken_for_interaction(shared):
    """Two seeds of worlds without δ: its share is 0 on average, its test fires at 5%.

    Also where an arm's targets, and a seed's sources, share most of the noise.
    """
    rng = np.random.default_rng(2)
    shares, fired = [], []
    for _ in range(200):
        alpha, gamma = _effects(rng)
        truth = alpha[:, None] + gamma
        noise = rng.normal(0, 0.5, (2, 7, 7))
        noise += shared * (rng.normal(size=(2, 7, 1)) + rng.normal(size=(2, 1, 7)))
        found = decompose(_cells(truth + noise))
        shares.append(found.interaction_share)
        fired.append(found.p_value < 0.05)
        total = found.source_effect_share + found.target_effect_share + found.interaction_share
        assert total + found.noise_share == pytest.approx(1)
    assert abs(np.mean(shares)) < 0.01
    assert 0.02 <= np.mean(fired) <= 0.09


def test_planted_interaction_is_found_through_noise():
    rng = np.random.default_rng(3)
    alpha, gamma = _effects(rng)
    truth = alpha[:, None] + gamma + rng.normal(size=(7, 7))
    noisy = decompose(_cells(truth + rng.normal(0, 0.3, (2, 7, 7))))
    exact = decompose(_cells(truth[None]))
    assert noisy.interaction_share == pytest.approx(exact.interaction_share, abs=0.05)
    assert noisy.p_value < 1e-6 and np.isnan(exact.p_value)


def test_what_arms_share_by_chance_is_not_taken_for_a_source_effect():
    rng = np.random.default_rng(4)
    gamma = 4 * _effects(rng)[1]
    found = [
        decompose(_cells(gamma + rng.normal(size=(2, 7, 1)) + rng.normal(size=(2, 7, 7))))
        for _ in range(100)
    ]
    for part in ("source_effect_share", "interaction_share"):
        assert abs(np.mean([getattr(each, part) for each in found])) < 0.02


def test_a_degenerate_arm_leaves_the_others_seeds_to_tell_the_noise():
    """Sources of one seed only: the noise is read off the rest, and still measured rightly."""
    rng = np.random.default_rng(5)
    fired = []
    for _ in range(100):
        cells = _cells(rng.normal(size=(2, 7, 7)))
        gone = (cells["seed"] == 1) & cells["source"].isin(["a", "b"])
        fired.append(decompose(cells[~gone]).p_value < 0.05)
    assert np.mean(fired) <= 0.12
    few = _cells(rng.normal(size=(2, 7, 7)))
    assert np.isnan(decompose(few[(few["seed"] == 0) | (few["source"] == "a")]).noise_share)


def test_one_source_cannot_be_decomposed():
    cells = _cells(np.ones((1, 7, 7)))
    with pytest.raises(InputError, match="unlearn more domains"):
        decompose(cells[cells["source"] == "a"])


def test_what_a_source_did_to_itself_changes_nothing():
    rng = np.random.default_rng(6)
    cells = _cells(rng.normal(size=(2, 7, 7)))
    own = pd.DataFrame(
        [(name, name, seed, 50 * rng.normal()) for name in NAMES for seed in range(2)],
        columns=cells.columns,
    )
    found, wanted = decompose(pd.concat([own, cells], ignore_index=True)), decompose(cells)
    pd.testing.assert_frame_equal(found.interaction, wanted.interaction)
    for part in ("source_effect_share", "target_effect_share", "interaction_share", "noise_share"):
        assert getattr(found, part) == getattr(wanted, part)
    assert (found.mean, found.p_value) == (wanted.mean, wanted.p_value)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_p_value_is_that_of_the_f_test_between_two_regressions(seeds):
    """Every seed has its own effects of sources and targets; is there a pair's own on top?"""
    from scipy.stats import f

    rng = np.random.default_rng(seeds)
    cells = _cells(rng.normal(size=(seeds, 7, 7)) + 0.4 * rng.normal(size=(7, 7)))
    effects = [cells["seed"].astype(str) + side + cells[side] for side in ("source", "target")]
    main = np.hstack([pd.get_dummies(effect).to_numpy(float) for effect in effects])
    pairs = pd.get_dummies(cells["source"] + cells["target"]).to_numpy(float)
    left, freedom = [], []
    for design in (main, np.hstack([main, pairs])):
        fitted = design @ np.linalg.lstsq(design, cells["value"], rcond=None)[0]
        left.append(((cells["value"] - fitted) ** 2).sum())
        freedom.append(len(cells) - np.linalg.matrix_rank(design))
    ratio = (left[0] - left[1]) / (freedom[0] - freedom[1]) / (left[1] / freedom[1])
    assert decompose(cells).p_value == pytest.approx(
        f.sf(ratio, freedom[0] - freedom[1], freedom[1]), rel=1e-6
    )


def test_seeds_that_agree_leave_nothing_to_test_the_interaction_against() -> None:
    """A p-value of 0 would come from no noise at all, whatever the interaction."""
    rng = np.random.default_rng(3)
    for truth in (rng.normal(size=(7, 7)), rng.normal(size=(7, 1)) + np.zeros(7)):
        found = decompose(_cells(np.stack([truth, truth])))
        assert np.isnan(found.p_value) and found.noise_share == pytest.approx(0, abs=1e-12)
