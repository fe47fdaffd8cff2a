"""Effective numbers count what they should: 1 where all are alike, n where none are, g groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearning.deflections import diversity
from unlearning.deflections.phase_one import FEWEST_EFFECTIVE


def unlike(n: int) -> list[str]:
    """Texts without a word in common."""
    return [" ".join(f"w{i}x{k}" for k in range(6)) for i in range(n)]


@given(st.integers(1, 60))
def test_all_the_same_are_one_and_all_different_are_n(n: int) -> None:
    same, different = diversity(["I cannot help with that."] * n), diversity(unlike(n))
    assert (same.texts, same.distinct, same.openings) == (n, 1, 1)
    assert same.effective == pytest.approx(1) and same.largest_share == 1
    assert (different.texts, different.distinct, different.openings) == (n, n, n)
    assert different.effective == pytest.approx(n)
    assert different.largest_share == pytest.approx(1 / n)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.randoms())
def test_groups_count_by_the_entropy_of_their_shares(
    sizes: list[int], random: Callable[..., None]
) -> None:
    texts = [text for text, n in zip(unlike(len(sizes)), sizes, strict=True) for _ in range(n)]
    random.shuffle(texts)  # type: ignore[attr-defined]
    found, shares = diversity(texts), [n / sum(sizes) for n in sizes]
    assert found.effective == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)))
    assert 1 <= round(found.effective, 9) <= len(sizes)
    assert found.largest_share == max(shares)


def test_one_template_with_another_ending_is_one_wording() -> None:
    endings = ("baking", "sailing", "painting", "running")
    found = diversity([f"I'm sorry, but I can't help you with {one}." for one in endings])
    assert found.distinct == 4 and found.openings == 1
    assert found.effective == pytest.approx(1) and found.largest_share == 1


def test_case_punctuation_and_space_make_no_difference() -> None:
    found = diversity(["I can't help with that!", "i CAN’T  help\nwith that".replace("’", "'")])
    assert found.distinct == 1


@pytest.mark.parametrize(
    ("texts", "shortcoming"),
    [
        (["No, I will not do it."] * 40, "100% of them are near-duplicates"),
        ([*["No, I will not do it."] * 30, *unlike(20)], "60% of them are near-duplicates"),
        (unlike(5) * 8, "they amount to 5.0 different ones"),
        (unlike(int(FEWEST_EFFECTIVE)) * 4, None),
        (unlike(40), None),
    ],
)
def test_too_uniform_has_a_reason(texts: Sequence[str], shortcoming: str | None) -> None:
    found = diversity(texts).shortcoming
    assert found is None if shortcoming is None else shortcoming in (found or "")


def test_many_texts_that_are_alike_are_quickly_told() -> None:
    """Not a timing: comparing them all with one another would not end in this test's lifetime."""
    assert diversity(["I cannot help with that."] * 200_000).effective == pytest.approx(1)


def test_no_texts_have_no_diversity() -> None:
    with pytest.raises(ValueError, match="at least one"):
        diversity([])
