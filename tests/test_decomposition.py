"""Potency, susceptibility and entanglement: exact on planted tables, calibrated under noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analyses.decomposition import decompose
from interp.errors import InputError

NAMES = np.array(list("abcdefg"))


def _cells(matrix: np.ndarray) -> pd.DataFrame:
    """Cells off the diagonal of (replicate, source, target)."""
    rows = [
        (NAMES[i], NAMES[j], value)
        for replicate in matrix
        for (i, j), value in np.ndenumerate(replicate)
        if i != j
    ]
    return pd.DataFrame(rows, columns=["source", "target", "value"])


def _effects(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    alpha, gamma = rng.normal(size=(2, 7))
    return alpha - alpha.mean(), gamma - gamma.mean()


def test_planted_effects_are_recovered_without_the_diagonal_and_with_holes():
    alpha, gamma = _effects(np.random.default_rng(0))
    cells = _cells((2.0 + alpha[:, None] + gamma)[None])
    found = decompose(cells.drop(cells.index[[3, 11, 25]]))
    assert found.mean == pytest.approx(2.0)
    assert list(found.potency.values()) == pytest.approx(alpha.tolist())
    assert list(found.susceptibility.values()) == pytest.approx(gamma.tolist())
    assert found.entanglement_share == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("which", ["potency", "susceptibility", "entanglement"])
def test_each_part_alone_takes_the_whole_share(which):
    rng = np.random.default_rng(1)
    alpha, _ = _effects(rng)
    delta = rng.normal(size=(7, 7))
    matrix = {
        "potency": np.repeat(alpha[:, None], 7, 1),
        "susceptibility": np.repeat(alpha[None], 7, 0),
        "entanglement": decompose(_cells(delta[None])).entanglement,
    }[which]
    # The residual of noise, already a table of cells, has no main effects left.
    cells = matrix if which == "entanglement" else _cells(matrix[None])
    found = decompose(cells)
    shares = {
        "potency": found.potency_share,
        "susceptibility": found.susceptibility_share,
        "entanglement": found.entanglement_share,
    }
    # Without the diagonal a pure source effect still tilts the targets' means a little.
    assert shares[which] > 0.97 and sum(shares.values()) == pytest.approx(1)


def test_noise_is_not_taken_for_entanglement():
    """Two seeds of worlds without δ: its share is 0 on average, its test fires at 5%."""
    rng = np.random.default_rng(2)
    shares, fired = [], []
    for _ in range(200):
        alpha, gamma = _effects(rng)
        truth = alpha[:, None] + gamma
        found = decompose(_cells(truth + rng.normal(0, 0.5, (2, 7, 7))))
        shares.append(found.entanglement_share)
        fired.append(found.p_value < 0.05)
        total = found.potency_share + found.susceptibility_share + found.entanglement_share
        assert total + found.noise_share == pytest.approx(1)
    assert abs(np.mean(shares)) < 0.01
    assert 0.02 <= np.mean(fired) <= 0.09


def test_planted_entanglement_is_found_through_noise():
    rng = np.random.default_rng(3)
    alpha, gamma = _effects(rng)
    truth = alpha[:, None] + gamma + rng.normal(size=(7, 7))
    noisy = decompose(_cells(truth + rng.normal(0, 0.3, (2, 7, 7))))
    exact = decompose(_cells(truth[None]))
    assert noisy.entanglement_share == pytest.approx(exact.entanglement_share, abs=0.05)
    assert noisy.p_value < 1e-6 and np.isnan(exact.p_value)


def test_one_source_cannot_be_decomposed():
    cells = _cells(np.ones((1, 7, 7)))
    with pytest.raises(InputError, match="unlearn more domains"):
        decompose(cells[cells["source"] == "a"])
