"""Whitened and causal inner products: identities, planted truths, cosines of noise."""

from __future__ import annotations

import numpy as np
import pytest

from interp.errors import InputError
from interp.similarity import causal_coordinates, cosine_map, plain_cosines, whitening
from interp.statistics import Contrast
from tests.test_geometry import noise, paired

D_MODEL = 32


def test_whitened_states_have_unit_covariance_where_prompts_abound() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(2, 6, 6))
    classes = np.arange(5000) % 3
    states = np.einsum("pld,lde->ple", rng.normal(size=(5000, 2, 6)), mixing)
    states += 5 * rng.normal(size=(3, 2, 6))[classes]
    white = whitening(states, classes)
    mapped = white(states)
    for layer in range(2):
        by_class = [mapped[classes == c, layer] for c in range(3)]
        within = np.cov(np.concatenate([x - x.mean(0) for x in by_class]).T)
        np.testing.assert_allclose(within, np.eye(6), atol=0.03)
    assert (white.shrinkage < 0.05).all()
    np.testing.assert_allclose(white(states[:7] + states[7:14]), mapped[:7] + mapped[7:14])


def test_few_prompts_whiten_by_the_shrunk_inverse_root() -> None:
    from sklearn.covariance import ledoit_wolf

    x = np.random.default_rng(0).normal(size=(12, 40)) * np.arange(1, 41)
    covariance, _ = ledoit_wolf(x)
    values, vectors = np.linalg.eigh(covariance)
    expected = x @ (vectors / np.sqrt(values)) @ vectors.T
    np.testing.assert_allclose(whitening(x)(x)[:, 0], expected, rtol=1e-6)


def test_whitening_brings_out_a_direction_that_loud_content_hides() -> None:
    """Two labels share a quiet direction; each has a loud one of its own."""
    rng = np.random.default_rng(0)
    sd = np.array([8.0] * 4 + [1.0] * (D_MODEL - 4))
    benign = rng.normal(size=(400, 1, D_MODEL)) * sd
    white = whitening(benign)
    contrasts = {}
    for label, own in (("a", 0), ("b", 1)):
        positive, negative = rng.normal(size=(2, 60, 1, D_MODEL)) * sd
        positive[..., 9] += 3.0
        positive[..., own] += 12.0
        contrasts[label] = Contrast(positive, negative)
    plain = cosine_map(contrasts, permutations=50)
    whitened = cosine_map(
        {label: c.mapped(white) for label, c in contrasts.items()},
        permutations=50,
        measure="whitened cosine",
    )
    assert plain.value[0, 0, 1] < 0.3
    assert whitened.value[0, 0, 1] > 0.6
    assert whitened.measure == "whitened cosine"


def test_whitened_cosines_of_noise_reject_at_the_nominal_rate() -> None:
    """Even with a covariance from the very prompts that the directions are fitted to."""
    rng = np.random.default_rng(0)
    rejected = []
    for seed in range(100):
        contrasts = {
            str(i): Contrast(noise(rng, 16, 2), noise(rng, 16, 2), paired(16)) for i in range(3)
        }
        states = np.concatenate([c.states for c in contrasts.values()])
        classes = np.concatenate([c.classes + 2 * i for i, c in enumerate(contrasts.values())])
        white = whitening(states, classes)
        found = cosine_map(
            {label: c.mapped(white) for label, c in contrasts.items()}, permutations=60, seed=seed
        )
        rejected.append((found.p[:, *np.triu_indices(3, 1)] <= 0.05).mean())
    assert 0.025 <= np.mean(rejected) <= 0.085


def test_causal_cosine_is_the_correlation_of_what_directions_do_to_the_logits() -> None:
    rng = np.random.default_rng(0)
    head = rng.normal(size=(500, D_MODEL)) * np.arange(1, D_MODEL + 1)
    directions = rng.normal(size=(2, D_MODEL))
    expected = np.corrcoef(directions @ head.T)[0, 1]
    causal = causal_coordinates(head)
    found = plain_cosines(causal(directions)[:, None])[0, 0, 1]
    assert found == pytest.approx(expected)
    # What moves every logit alike does not count.
    shifted = causal_coordinates(head + rng.normal(size=D_MODEL) * 7)
    assert plain_cosines(shifted(directions)[:, None])[0, 0, 1] == pytest.approx(expected)


def test_fewer_tokens_than_dimensions_are_no_obstacle() -> None:
    rng = np.random.default_rng(0)
    head, directions = rng.normal(size=(10, D_MODEL)), rng.normal(size=(2, D_MODEL))
    found = plain_cosines(causal_coordinates(head)(directions)[:, None])[0, 0, 1]
    assert found == pytest.approx(np.corrcoef(directions @ head.T)[0, 1])


def test_errors_are_one_line() -> None:
    states = np.random.default_rng(0).normal(size=(20, 2, 8))
    with pytest.raises(InputError, match="do not vary"):
        whitening(np.ones((20, 2, 8)))
    with pytest.raises(InputError, match="fitted to"):
        whitening(states)(states[:, :1])
    with pytest.raises(InputError, match=r"finite \(vocabulary, d_model\)"):
        causal_coordinates(np.full((4, 3), np.nan))
    with pytest.raises(InputError, match="head of the same model"):
        causal_coordinates(np.ones((9, 3)))(states)
