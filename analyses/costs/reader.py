"""The cost of a scorer that runs a model in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from analyses.costs.estimate import CostedModel, CostEstimate, answering_estimate
from analyses.costs.memory import Memory, reading_memory
from analyses.costs.rates import Shapes
from analyses.costs.work import Extent, Reading, Work, once

if TYPE_CHECKING:
    from collections.abc import Iterable

    from unlearning.scoring import Reader, Workload

BATCH = 32


def with_readers(
    estimate: CostEstimate,
    readers: Iterable[Reader],
    work: Extent,
    reading: Reading,
    *,
    timing: bool = True,
) -> CostEstimate:
    """The estimate with the reading of every answer by each reader.

    Args:
        estimate: of the other work.
        readers: of the scorers; one of them reads each answer once for all scorers.
        work: with the number of answers.
        reading: the lengths of prompts and answers.
        timing: measure the readers' speed now.
    """
    from unlearning.scoring import READER_DEPTH, refusal_texts

    tokens = reading.prompt + reading.answer * reading.usual
    for reader in dict.fromkeys(readers):
        subject = CostedModel(reader.source, reader.loading)
        found = subject.footprint()
        if found is None or estimate.memory is None:
            return replace(estimate, memory=None, seconds=None)
        weights, footprint = found
        held = weights.held + reading_memory(footprint, BATCH, tokens)
        on_cpu = estimate.device.is_cpu
        memory = Memory(
            estimate.memory.device + held * (not on_cpu), estimate.memory.main + held * on_cpu
        )
        seconds = estimate.seconds
        rates = subject.rates(Shapes(BATCH, round(tokens), round(tokens))) if timing else None
        if rates is not None and seconds is not None:
            expected, most = (
                READER_DEPTH * rates.read * tokens * one.answers + rates.load
                for one in (work.expected, work.at_most)
            )
            # A reader that is new here reads the package's texts first, which are as long.
            most += READER_DEPTH * rates.read * tokens * len(refusal_texts())
            seconds = (seconds[0] + expected, seconds[1] + most)
        estimate = replace(estimate, memory=memory, seconds=seconds)
    return estimate


def workload_estimate(
    asked: Workload, device: str | None, *, timing: bool = True
) -> CostEstimate | None:
    """The needs of a scorer's model in this process; None where no such model is called.

    Args:
        asked: the texts and tokens.
        device: where the model runs; by default the package's choice.
        timing: measure its speed now.
    """
    if asked.model is None or not asked.calls:
        return None
    read, written = asked.read / asked.calls, asked.written / asked.calls
    reading = Reading(read, asked.depth * read, written, usual=1.0)
    work = reading.answers(asked.calls) + once(Work(arms=1))
    subject = CostedModel(asked.model, {"device": device} if device else {})
    return answering_estimate([subject], reading, work, asked.batch_size, timing=timing)
