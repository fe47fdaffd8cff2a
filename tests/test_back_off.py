"""A batch that does not fit is halved, whatever allocator says so; nothing else is swallowed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import MachineError
from interp.model import Tokens, in_fitting_batches
from interp.model.batching import is_out_of_memory

FULL = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 17.95 GB)"),
    RuntimeError("Invalid buffer size: 24.00 GB"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 64 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
)


def rows(lengths: list[int]) -> list[Tokens]:
    return [Tokens(tuple(range(length)), {}) for length in lengths]


class Memory:
    """Holds so many tokens of padded rows, and notes what it was asked to hold."""

    def __init__(self, held: list[Tokens], tokens: int) -> None:
        self.held, self.tokens = held, tokens
        self.tried: list[int] = []

    def work(self, chosen: list[int]) -> list[int]:
        self.tried.append(len(chosen))
        if len(chosen) * max(len(self.held[i]) for i in chosen) > self.tokens:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return [len(self.held[i]) for i in chosen]


@settings(max_examples=30)  # what runs out of memory collects garbage, which takes its time
@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 64), st.integers(50, 400))
def test_every_row_is_done_once_in_batches_that_fit(
    lengths: list[int], batch_size: int, tokens: int
) -> None:
    made = rows(lengths)
    memory = Memory(made, tokens)
    done = list(in_fitting_batches(made, batch_size, memory.work))
    assert sorted(i for chosen, _ in done for i in chosen) == list(range(len(lengths)))
    for chosen, result in done:
        assert result == [lengths[i] for i in chosen]
        assert len(chosen) <= batch_size and len(chosen) * max(result) <= tokens
    in_order = [lengths[i] for chosen, _ in done for i in chosen]
    assert in_order == sorted(lengths, reverse=True)
    # Never more than what was last found to fit: one failure for each halving, and no more.
    assert memory.tried == sorted(memory.tried, reverse=True)


def test_the_smaller_size_is_kept() -> None:
    made = rows([10] * 20)
    memory = Memory(made, 50)
    assert [len(chosen) for chosen, _ in in_fitting_batches(made, 16, memory.work)] == [4] * 5
    assert memory.tried == [16, 8, *[4] * 5]


@pytest.mark.parametrize("error", FULL, ids=lambda e: str(e)[:25] or type(e).__name__)
def test_every_allocator_is_understood(error: Exception) -> None:
    assert is_out_of_memory(error)
    failures = [error]

    def work(chosen: list[int]) -> int:
        if failures:
            raise failures.pop()
        return len(chosen)

    assert [n for _, n in in_fitting_batches(rows([3] * 4), 4, work)] == [2, 2]


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes cannot be multiplied"), ValueError("out of memory"), KeyError(1)]
)
def test_other_errors_pass_at_once(error: Exception) -> None:
    def work(chosen: list[int]) -> None:
        raise error

    with pytest.raises(type(error)) as found:
        list(in_fitting_batches(rows([3] * 4), 4, work))
    assert found.value is error


def test_where_one_row_does_not_fit_the_error_says_so() -> None:
    made = rows([60, 70, 10])
    with pytest.raises(MachineError) as found:
        list(in_fitting_batches(made, 8, Memory(made, 50).work))
    for part in ("a single prompt of 70 tokens", "CUDA out of memory", "--device"):
        assert part in str(found.value)
    assert isinstance(found.value.__cause__, torch.OutOfMemoryError)


def test_what_a_failed_batch_held_is_free_before_the_next_is_tried() -> None:
    import weakref

    held: list[weakref.ref[torch.Tensor]] = []

    def work(chosen: list[int]) -> int:
        assert not any(one() is not None for one in held)
        large = torch.zeros(10)
        held.append(weakref.ref(large))
        if len(chosen) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return len(large)

    assert len(list(in_fitting_batches(rows([3] * 4), 4, work))) == 4


def test_an_error_of_the_consumer_is_its_own() -> None:
    batches = in_fitting_batches(rows([3] * 4), 2, len)
    next(batches)
    with pytest.raises(torch.OutOfMemoryError):
        batches.throw(torch.OutOfMemoryError("CUDA out of memory."))  # type: ignore[attr-defined]
