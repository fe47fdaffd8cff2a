"""Batches that fit into memory: a batch that does not fit is halved and tried again.

The number of rows that fit depends on the device, on its other use and on the longest row, so the
batch size is an upper limit. Rows are taken longest first: memory runs out early or not at all.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import takewhile
from typing import TypeVar

import torch

from interp.errors import MachineError, first_line
from interp.progress import Advance, silent

Result = TypeVar("Result")
Row = TypeVar("Row")

# Messages of allocators, in lower case; only CUDA and similar devices have an exception class.
_SIGNS = (
    "out of memory",  # CUDA, HIP, XPU, MPS
    "can't allocate memory",  # the CPU allocator on Linux and macOS
    "not enough memory",  # ... and on Windows
    "_status_alloc_failed",  # cuBLAS, cuDNN and other libraries outside the allocator
    "invalid buffer size",  # MPS, for one tensor larger than a buffer may be
)


def in_fitting_batches(
    rows: Sequence[Sized],
    batch_size: int,
    work: Callable[[list[int]], Result],
    together: Sequence[Hashable] | None = None,
) -> Iterator[tuple[list[int], Result]]:
    """Do ``work`` on rows of similar length, at most ``batch_size`` at a time.

    A batch that runs out of memory is halved, and all later batches keep the smaller size.

    Args:
        rows: the rows to process; only their lengths are used.
        batch_size: rows in the first batch.
        work: takes row numbers. If memory runs out, it is called again for some of them, so it must
            not have stored anything by then.
        together: something for each row; rows for which it differs never share a batch. Give
            :meth:`interp.model.LanguageModel.together` wherever ``work`` runs a model.

    Yields:
        Row numbers, longest rows first, and the result of ``work`` for them.

    Raises:
        MachineError: not even one row fits.
    """
    order = in_order(rows, together)
    while order:
        chosen = next_batch(order, batch_size, together)
        try:
            result = work(chosen)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(chosen) == 1:
                raise MachineError(
                    f"a single prompt of {len(rows[chosen[0]])} tokens does not fit into memory "
                    f"next to the model ({first_line(error)}); stop other programs on this "
                    "device, choose another with --device, or use a smaller or quantized model, "
                    "shorter prompts or fewer new tokens"
                ) from error
            batch_size = len(chosen) // 2
        else:
            yield chosen, result
            order = order[len(chosen) :]
            continue
        # Only here are the error and its frames released, with the tensors that filled the memory.
        _release()


def map_in_batches(
    work: Callable[[list[int]], Iterable[Row]],
    rows: Sequence[Sized],
    batch_size: int,
    progress: Advance = silent,
    together: Sequence[Hashable] | None = None,
) -> list[Row]:
    """The result of ``work`` for every row, in the order of ``rows``.

    Args:
        work: takes row numbers and gives one result for each, as for :func:`in_fitting_batches`.
        rows: the rows to process; only their lengths are used.
        batch_size: rows in the first batch.
        progress: called with the number of rows just done.
        together: as for :func:`in_fitting_batches`.

    Raises:
        MachineError: not even one row fits.
    """
    found: dict[int, Row] = {}
    for chosen, results in in_fitting_batches(rows, batch_size, work, together):
        found |= zip(chosen, results, strict=True)
        progress(len(chosen))
    return [found[i] for i in range(len(rows))]


def in_order(rows: Sequence[Sized], together: Sequence[Hashable] | None) -> list[int]:
    """Row numbers, longest rows first, and rows that may share a batch next to each other."""
    first: dict[Hashable, int] = {}
    for i, kind in enumerate(together or ()):
        first.setdefault(kind, i)
    return sorted(
        range(len(rows)), key=lambda i: (-len(rows[i]), first[together[i]] if together else 0, i)
    )


def next_batch(
    order: Sequence[int], batch_size: int, together: Sequence[Hashable] | None
) -> list[int]:
    """The first rows of ``order`` that may share a batch, at most ``batch_size``."""
    if together is None:
        return list(order[:batch_size])
    return list(takewhile(lambda i: together[i] == together[order[0]], order[:batch_size]))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


@contextmanager
def fitting(what: str, device: object, advice: str) -> Iterator[None]:
    """Say in one line what does not fit if memory runs out in the block, and what to do.

    Raises:
        MachineError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MachineError(
            f"{what} does not fit into the free memory of {device} ({first_line(error)}); {advice}"
        ) from error


def _release() -> None:
    """Release cached blocks, so that a smaller batch finds contiguous memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
