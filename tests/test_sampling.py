"""Draws follow the model's distribution, and depend on the seed and the prompt alone."""

from __future__ import annotations

import numpy as np
import torch
from scipy.stats import chisquare

from unlearning.generation import AskedPrompt
from unlearning.generation.responses import Draw, uniform_numbers

ASKED = [AskedPrompt("a", 0), AskedPrompt("a", 1), AskedPrompt("b", 0)]


def drawn(logits: torch.Tensor, numbers: np.ndarray, temperature: float = 1.0) -> torch.Tensor:
    """The token that each row's first number picks."""
    prompts = torch.zeros((len(logits), 4), dtype=torch.long)
    left = Draw(numbers, temperature, width=4)(prompts, logits)
    assert (torch.isfinite(left).sum(dim=1) == 1).all()
    return left.argmax(dim=1)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(12, generator=generator)
    numbers = np.random.default_rng(0).random((20_000, 1))
    for temperature in (0.5, 1.0, 2.0):
        tokens = drawn(logits.expand(len(numbers), -1), numbers, temperature)
        counts = torch.bincount(tokens, minlength=12).numpy()
        expected = (logits.double() / temperature).softmax(-1).numpy() * len(numbers)
        assert chisquare(counts, expected).pvalue > 0.001


def test_the_whole_vocabulary_can_be_drawn_and_nothing_that_is_impossible() -> None:
    logits = torch.full((3, 150_000), -torch.inf)
    logits[:, [7, 140_000]] = 0.0
    assert drawn(logits, np.array([[0.0], [0.4999], [1 - 2**-53]])).tolist() == [7, 7, 140_000]
    flat = torch.zeros(1, 150_000)
    assert drawn(flat, np.array([[(123_456 + 0.5) / 150_000]])).item() == 123_456


def test_each_new_token_has_a_number_of_its_own() -> None:
    draw = Draw(np.array([[0.15, 0.95]]), 1.0, width=2)
    logits = torch.zeros(1, 10)
    for step, expected in enumerate((1, 9)):
        ids = torch.zeros((1, 2 + step), dtype=torch.long)
        assert draw(ids, logits).argmax().item() == expected


def test_numbers_are_uniform_and_independent() -> None:
    numbers = uniform_numbers([AskedPrompt(f"prompt {i}", 0) for i in range(400)], 0, 8)
    assert ((numbers >= 0) & (numbers < 1)).all()
    assert abs(numbers.mean() - 0.5) < 0.02 and abs(numbers.var() - 1 / 12) < 0.005
    correlations = np.corrcoef(numbers.T)[np.triu_indices(8, k=1)]
    assert np.abs(correlations).max() < 0.2


def test_numbers_depend_on_the_seed_the_prompt_and_the_sample_alone() -> None:
    numbers = uniform_numbers(ASKED, 5, 6)
    assert len(np.unique(numbers)) == numbers.size
    assert not np.isin(uniform_numbers(ASKED, 6, 6), numbers).any()
    assert np.array_equal(uniform_numbers(ASKED[::-1], 5, 6), numbers[::-1])
    assert np.array_equal(uniform_numbers(ASKED[1:2], 5, 3), numbers[1:2, :3])
    assert np.array_equal(uniform_numbers(ASKED, -1, 2), uniform_numbers(ASKED, -1, 2))
