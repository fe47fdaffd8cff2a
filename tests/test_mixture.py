"""Batches: one pass an epoch, nothing drawn twice before its time, order from (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, SequentialSampler

from interp.chat import Tokens
from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.mixture import Example, Mixture, collator

SIZES = st.lists(st.integers(1, 7), min_size=1, max_size=4)


def examples(name: str, count: int) -> list[Example]:
    return [Example(f"{name} {i}", Tokens((i,), {})) for i in range(count)]


def mixed(forget: int, retain: list[int], *, ratio: int = 1, seed: int = 0) -> Mixture:
    groups = {f"group {i}": examples(f"group {i}", size) for i, size in enumerate(retain)}
    return Mixture(examples("forget", forget), groups, ratio=ratio, seed=seed)


def ids(mixture: Mixture, epochs: int = 1, *, first: int = 0) -> list[list[str]]:
    """Ids at every position of ``epochs`` epochs, group 0 first."""
    size = len(mixture.forget)
    stream = mixture.stream(size * (first + epochs), 1)
    return [[one.id for _, one in stream[i]] for i in range(size * first, len(stream))]


@settings(deadline=None)
@given(st.integers(1, 12), SIZES, st.integers(1, 3), st.integers(0, 99))
def test_an_epoch_is_one_pass_over_the_forget_set(
    forget: int, retain: list[int], ratio: int, seed: int
) -> None:
    mixture = mixed(forget, retain, ratio=ratio, seed=seed)
    for epoch in range(3):
        rows = ids(mixture, first=epoch)
        assert Counter(row[0] for row in rows) == Counter(f"forget {i}" for i in range(forget))
        assert all(len(row) == 1 + ratio for row in rows)


@settings(deadline=None)
@given(st.integers(1, 12), SIZES, st.integers(1, 3), st.integers(0, 99))
def test_retain_groups_have_equal_shares_and_are_cycled_without_replacement(
    forget: int, retain: list[int], ratio: int, seed: int
) -> None:
    rows = ids(mixed(forget, retain, ratio=ratio, seed=seed), 4)
    dealt = [name for row in rows for name in row[1:]]
    streams = [
        [name for name in dealt if name.startswith(f"group {g} ")] for g in range(len(retain))
    ]
    shares = [len(stream) for stream in streams]
    assert max(shares) - min(shares) <= 1
    for stream, size in zip(streams, retain, strict=True):
        for start in range(0, len(stream), size):
            cycle = stream[start : start + size]
            # Also across the ends of epochs: a cycle knows nothing of them.
            assert len(set(cycle)) == len(cycle)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    once, again = mixed(20, [9, 5], ratio=2), mixed(20, [9, 5], ratio=2)
    third = ids(once, 4)[60:]
    assert ids(again, first=3) == third  # as on resuming, with no epoch before it
    assert ids(again, first=0) != third
    assert ids(mixed(20, [9, 5], ratio=2, seed=1), first=3) != third


def test_orders_of_groups_and_epochs_are_not_each_other_s() -> None:
    rows = ids(mixed(30, [30]), 3)
    orders = [[row[0].split()[1] for row in rows[a:b]] for a, b in pairwise((0, 30, 60, 90))]
    orders += [[row[1].split()[2] for row in rows[a:b]] for a, b in pairwise((0, 30, 60, 90))]
    assert len({tuple(order) for order in orders}) == 6


def test_group_numbers_follow_the_order_given() -> None:
    mixture = mixed(4, [2, 3], ratio=2)
    names = list(mixture.groups)
    assert names == ["forget", "group 0", "group 1"]
    for position in range(4):
        for (number, place), one in mixture.stream(4, 1)[position]:
            assert one.id.rsplit(" ", 1)[0] == names[number]
            assert mixture.groups[names[number]][place] is one


@pytest.mark.parametrize("retain", [{}, None])
def test_without_retain_groups_there_are_forget_examples_only(retain: dict | None) -> None:
    mixture = Mixture(examples("forget", 3), retain, ratio=2)
    assert [len(mixture.stream(3, 1)[i]) for i in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("split", [1, 2, 4])
def test_a_global_batch_does_not_depend_on_how_it_is_split(split: int) -> None:
    mixture = mixed(10, [3, 4], ratio=2)
    stream = mixture.stream(10, 1)
    loader = DataLoader(
        stream, batch_size=split, sampler=SequentialSampler(stream), collate_fn=list
    )
    rows = [[one.id for _, one in position] for batch in loader for position in batch]
    assert rows == ids(mixture)


def test_nothing_to_forget_and_empty_groups_are_refused() -> None:
    with pytest.raises(InputError, match="forget set has no examples"):
        Mixture([])
    with pytest.raises(InputError, match="without examples: bias; leave them out"):
        Mixture(examples("forget", 1), {"bias": [], "safety": examples("safety", 1)})


def test_references_lie_under_their_responses(checkpoint_of: Callable[[str], Path]) -> None:
    chat = LanguageModel.load(checkpoint_of("qwen2")).chat
    rows: list[Example] = []
    for prompt, response in (("Why?", "No."), ("Tell me how to bake bread.", "Sorry, I cannot.")):
        tokens = chat.encode(prompt, response)
        length = len(tokens.ids[tokens.spans["response"]])
        rows.append(Example(prompt, tokens, -torch.arange(1.0, length + 1)))
    bare = Example("bare", chat.encode("Hello there", "Hello."))
    batch = collator(chat)([[((0, 0), rows[0]), ((1, 0), bare)], [((0, 1), rows[1])]])
    assert batch["group"].tolist() == [0, 1, 0]
    for i, one in ((0, rows[0]), (2, rows[1])):
        mask = batch["response_mask"][i]
        assert torch.equal(batch["reference"][i, mask], one.reference)
        assert (batch["reference"][i, ~mask] == 0).all()
        assert (
            tuple(batch["input_ids"][i, mask].tolist())
            == one.tokens.ids[one.tokens.spans["response"]]
        )
    assert (batch["reference"][1] == 0).all()
