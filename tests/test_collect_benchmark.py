"""The ways that collecting is timed against read the same states; how fast is not tested here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.benchmarks import collect
from tests.benchmarks.__main__ import collect_times, table
from tests.benchmarks.paired import ratio
from tests.benchmarks.workload import Workload

TINY = Workload(vocabulary=2048, d_model=32, d_mlp=64, layers=3, heads=4)


def test_every_way_reads_the_same_states() -> None:
    every = collect.ways(TINY)
    ours = every["ours"]()
    assert isinstance(ours, np.ndarray) and ours.shape == (collect.ROWS, 3, 32)
    for name in ("output_hidden_states", "transformer_lens", "nnsight"):
        theirs = every[name]()
        assert isinstance(theirs, torch.Tensor)
        # The last of Hugging Face's is behind the final norm.
        known = slice(None, 2) if name == "output_hidden_states" else slice(None)
        assert theirs.numpy()[:, known] == pytest.approx(ours[:, known], abs=1e-5), name
    assert np.asarray(every["early_exit"]()) == pytest.approx(ours[:, :1], abs=1e-5)


def test_ways_are_interleaved_and_the_first_round_is_not_counted() -> None:
    order: list[str] = []
    every = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = collect.interleaved(every, pairs=4)
    assert {name: len(found) for name, found in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert all({*order[i : i + 3]} == {"a", "b", "c"} for i in range(0, 15, 3))


def test_a_goal_may_be_one_to_reach() -> None:
    assert ratio([3.0], [1.0], 2.0, at_least=True)["met"]
    assert not ratio([3.0], [1.0], 2.0)["met"]
    assert not ratio([1.0], [1.0], 2.0, at_least=True)["met"]


@pytest.mark.slow
def test_all_of_it_runs() -> None:
    entries = collect_times(TINY, pairs=2, threads=1)
    assert entries["collect.sorted_vs_unsorted"]["at_least"]
    assert table(entries).row_count == len(entries)
    for name in ("trunk", "transformer_lens", "nnsight", "output_hidden_states"):
        assert entries[f"collect.vs_{name}"]["value"] > 0
