"""Batches: one pass an epoch, nothing drawn twice before its time, order from (seed, epoch)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, SequentialSampler

from interp.errors import InputError
from interp.model import LanguageModel, Tokens
from unlearning.training import Example, Mixture
from unlearning.training.mixture import Place, Stream, collator

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


@given(st.integers(1, 12), SIZES, st.integers(1, 3), st.integers(0, 99))
def test_an_epoch_is_one_pass_over_the_forget_set(
    forget: int, retain: list[int], ratio: int, seed: int
) -> None:
    mixture = mixed(forget, retain, ratio=ratio, seed=seed)
    for epoch in range(3):
        rows = ids(mixture, first=epoch)
        assert Counter(row[0] for row in rows) == Counter(f"forget {i}" for i in range(forget))
        assert all(len(row) == 1 + ratio for row in rows)


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


def test_without_retain_groups_there_are_forget_examples_only() -> None:
    mixture = Mixture(examples("forget", 3), ratio=2)
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


# Rows of like length together


def long_and_short(forget: int, retain: list[int], *, ratio: int = 1, seed: int = 0) -> Mixture:
    """A mixture whose rows have 1 to 200 tokens, most of them few, as real responses have."""
    rng = np.random.default_rng((seed, 7))

    def group(name: str, count: int) -> list[Example]:
        lengths = np.minimum(rng.geometric(0.03, size=count), 200)
        return [Example(f"{name} {i}", Tokens((0,) * int(n), {})) for i, n in enumerate(lengths)]

    groups = {f"group {i}": group(f"group {i}", size) for i, size in enumerate(retain)}
    return Mixture(group("forget", forget), groups, ratio=ratio, seed=seed)


def placed(stream: Stream) -> list[list[Place]]:
    return [[place for place, _ in stream[position]] for position in range(len(stream))]


def padding(stream: Stream) -> int:
    """Tokens that a run adds to its rows, every batch padded to its longest."""
    size, added = stream.batch_size, 0
    for start in range(0, len(stream), size):
        rows = [len(one.tokens) for i in range(start, start + size) for _, one in stream[i]]
        added += len(rows) * max(rows) - sum(rows)
    return added


@given(
    st.integers(1, 20),
    SIZES,
    st.integers(1, 3),
    st.integers(0, 99),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 11),
)
def test_a_window_keeps_its_examples_and_each_batch_its_groups(
    forget: int, retain: list[int], ratio: int, seed: int, window: int, batch: int, steps: int
) -> None:
    mixture = long_and_short(forget, retain, ratio=ratio, seed=seed)
    # Not every number of steps is a multiple of the window: the last one is then short.
    plain = placed(mixture.stream(steps, batch))
    stream = mixture.stream(steps, batch, window=window)
    sorted_by_length = placed(stream)
    assert len(plain) == len(sorted_by_length) == steps * batch
    assert stream.window <= window * batch
    for was, now in zip(plain, sorted_by_length, strict=True):
        assert [group for group, _ in was] == [group for group, _ in now]
    for start in range(0, steps * batch, stream.window):
        inside = slice(start, start + stream.window)
        assert Counter(chain(*sorted_by_length[inside])) == Counter(chain(*plain[inside]))


@pytest.mark.parametrize("seed", range(5))
def test_windows_save_padding(seed: int) -> None:
    mixture = long_and_short(60, [40, 25], ratio=2, seed=seed)
    without, two, eight = (padding(mixture.stream(24, 4, window=w)) for w in (0, 2, 8))
    assert eight < two < without
    assert eight < 0.5 * without


@given(
    st.integers(32, 90), st.lists(st.integers(8, 60), min_size=1, max_size=4), st.integers(0, 99)
)
def test_copies_of_an_example_do_not_fill_a_batch(
    forget: int, retain: list[int], seed: int
) -> None:
    """A window over several passes would put the copies of an example together."""
    mixture, batch = long_and_short(forget, retain, seed=seed), 32
    dealt = placed(mixture.stream(8, batch, window=8))
    first = [place for row in dealt[:batch] for place in row]
    for group, examples in enumerate(mixture.groups.values()):
        places = [place for other, place in first if other == group]
        fewest = -(-len(places) // len(examples))
        assert max(Counter(places).values()) == fewest


def test_a_window_of_one_batch_changes_only_who_stands_where_in_it() -> None:
    mixture = long_and_short(20, [9], seed=2)
    assert padding(mixture.stream(10, 4, window=1)) == padding(mixture.stream(10, 4))


def test_batches_of_a_window_do_not_come_by_length() -> None:
    """Or training would see its long rows at the same phase of every window."""
    mixture = long_and_short(64, [], seed=1)
    stream = mixture.stream(64, 4, window=8)
    longest = [max(len(one.tokens) for i in range(4 * b, 4 * b + 4) for _, one in stream[i])
               for b in range(64)]  # fmt: skip
    ranks = np.argsort(np.argsort(np.reshape(longest, (8, 8)), axis=1), axis=1)
    assert len({tuple(row) for row in ranks.tolist()}) > 4
    assert not any((np.diff(row) >= 0).all() or (np.diff(row) <= 0).all() for row in ranks)


def test_the_order_in_windows_is_a_function_of_the_seed_only() -> None:
    def order(seed: int) -> list[list[Place]]:
        np.random.seed(len(orders))  # noqa: NPY002
        torch.manual_seed(len(orders))
        # The same lengths whatever the seed of the order is.
        drawn = long_and_short(20, [9, 5], ratio=2)
        mixture = Mixture(drawn.forget, drawn.retain, ratio=2, seed=seed)
        return placed(mixture.stream(12, 4, window=3))

    orders: list[list[list[Place]]] = []
    for seed in (0, 0, 1):
        orders.append(order(seed))
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("window", [0, 1, 3, 100])
def test_a_run_resumed_by_skipping_positions_sees_the_rows_it_would_have_seen(window: int) -> None:
    mixture = long_and_short(13, [5, 8], ratio=2, seed=4)
    whole = placed(mixture.stream(10, 4, window=window))
    for first in (1, 4, 12, 23, 39):
        stream = mixture.stream(10, 4, window=window)
        assert [[place for place, _ in stream[i]] for i in range(first, 40)] == whole[first:]
    backwards = mixture.stream(10, 4, window=window)
    assert [[place for place, _ in backwards[i]] for i in reversed(range(40))] == whole[::-1]


def test_a_longer_run_begins_as_a_shorter_one_up_to_its_last_whole_window() -> None:
    mixture = long_and_short(13, [5, 8], ratio=2, seed=4)
    short, long = (placed(mixture.stream(steps, 4, window=3)) for steps in (10, 25))
    assert long[:36] == short[:36]


@pytest.mark.parametrize("position", [-1, 40, 1000])
def test_a_stream_ends(position: int) -> None:
    with pytest.raises(IndexError):
        mixed(3, [2]).stream(10, 4, window=3)[position]


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
