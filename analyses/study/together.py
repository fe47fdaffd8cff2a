"""One study in several processes: ``torchrun`` or ``accelerate launch`` in front of a command.

The first process runs the study. The others wait for its training runs and take part in each:
every process trains on its share of each step's rows, and all end with the same weights
(:mod:`unlearning.training.trainer`). Everything else, scoring included, is done by the first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from analyses.study.launcher import processes
from analyses.study.plan import StudyPlan
from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.training import Mixture, TrainingSettings, prepare_in_place, unlearn_in_place

# The others wait while the first one scores.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class TrainingRun:
    """What every process needs for one call of ``unlearn_in_place``."""

    mixture: Mixture
    settings: TrainingSettings
    folder: Path
    cache: Path
    checkpoint_every: int | None


@contextmanager
def leading(plan: StudyPlan) -> Iterator[None]:
    """Run the study inside the block; the other processes end with it."""
    if processes() == 1:
        yield
        return
    _join(plan)
    yield
    _sent(None)
    distributed.destroy_process_group()


def share(run: TrainingRun) -> None:
    """Let the other processes take part in a training run that begins now."""
    if processes() > 1 and distributed.is_initialized():
        _sent(run)


def take_part(plan: StudyPlan) -> None:
    """Train with the first process until its study ends."""
    _join(plan)
    while (run := _sent(None)) is not None:
        lm = LanguageModel.load(plan.model, **plan.model_options)
        lm = prepare_in_place(lm, run.settings)
        unlearn_in_place(
            lm,
            run.mixture,
            run.settings,
            folder=run.folder,
            cache=run.cache,
            checkpoint_every=run.checkpoint_every,
        )
        del lm
    distributed.destroy_process_group()


def _join(plan: StudyPlan) -> None:
    """Form the group of processes, each with its device.

    Raises:
        InputError: the plan names one device by its number.
    """
    from accelerate import PartialState

    device = str(plan.model_options.get("device") or "cuda")
    if ":" in device:
        raise InputError(f"--device {device} with several processes: each takes one; leave it out")
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    if not on_cpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    PartialState(cpu=on_cpu)
    _channel()


@cache
def _channel() -> Any:
    """The group over which training runs are announced; every process makes it at the same time."""
    return distributed.new_group(backend="gloo", timeout=PATIENCE)


def _sent(run: TrainingRun | None) -> TrainingRun | None:
    """The first process's training run, in every process; None after the last one."""
    box = [run]
    distributed.broadcast_object_list(box, src=0, group=_channel())
    return box[0]
