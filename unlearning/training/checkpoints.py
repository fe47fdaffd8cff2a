"""Mark training checkpoints as complete, and find the one to resume from.

``transformers.Trainer`` writes ``FOLDER/checkpoint-STEP/`` file by file. A kill, a full disk or a
crash may leave an incomplete folder, and Trainer's own lookup would resume from it. Here a
checkpoint counts only if it has ``complete.json``, which is written after every other file is on
the disk, and only if every file listed there has its size. Contents are not hashed, because reading
every checkpoint again would take too long.
"""

from __future__ import annotations

import re
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState

from interp.errors import InputError, MachineError, TrainingError
from interp.store import is_out_of_room, read_json, share_folder, sync_folder, sync_path, write_json

COMPLETE = "complete.json"
NAME = re.compile(r"checkpoint-(0|[1-9][0-9]*)")


class Stateful(Protocol):
    """State that a resumed run needs in addition to the model: scores, multipliers, a log."""

    def save_state(self, folder: Path) -> None:
        """Write the state into ``folder``. Draw no random numbers: their state is saved already."""

    def load_state(self, folder: Path) -> None:
        """Restore the state that :meth:`save_state` wrote."""


def seal(checkpoint: str | Path) -> None:
    """Mark ``checkpoint`` as complete with the files that it has now.

    ``complete.json`` is ``{"step": N, "files": {relative path: bytes}}``. It reaches the disk after
    the files that it lists. When this function returns, the folder's entry is on the disk too.
    """
    checkpoint = Path(checkpoint)
    share_folder(checkpoint)
    sync_folder(checkpoint)
    sizes = {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path != checkpoint / COMPLETE
    }
    write_json(checkpoint / COMPLETE, {"step": _step(checkpoint), "files": sizes})
    sync_path(checkpoint)
    sync_path(checkpoint.parent)


def is_complete(checkpoint: str | Path) -> bool:
    """Whether ``checkpoint`` is marked as complete and every listed file still has its size."""
    checkpoint = Path(checkpoint)
    try:
        listed = read_json(checkpoint / COMPLETE)
        whole = all((checkpoint / n).stat().st_size == size for n, size in listed["files"].items())
        return whole and bool(listed["files"]) and listed["step"] == _step(checkpoint)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # absent, truncated or from another program


def newest_complete(folder: str | Path) -> Path | None:
    """The complete checkpoint of the highest step in ``folder``; None without one."""
    return next((one for one in reversed(_checkpoints(folder)) if is_complete(one)), None)


def prune(folder: str | Path, keep: int = 2) -> None:
    """Delete old checkpoints, complete or not.

    The newest ``keep`` complete checkpoints stay, and all files that are not ``checkpoint-N``.

    Raises:
        InputError: ``keep`` is below 1.
    """
    if keep < 1:
        raise InputError(f"keep is {keep}; expected at least 1: the run resumes from the last one")
    found = _checkpoints(folder)
    complete = [one for one in found if is_complete(one)]
    if complete:
        older = found[: found.index(complete[-1])]
        _delete(one for one in older if one not in complete[-keep:])


def discard_torn(folder: str | Path) -> None:
    """Delete incomplete checkpoints after the newest complete one. Do not call it during a save."""
    found, newest = _checkpoints(folder), newest_complete(folder)
    _delete(found[found.index(newest) + 1 :] if newest else found)


def discard_all(folder: str | Path) -> None:
    """Delete every checkpoint of a finished run, and the folder if it is then empty."""
    folder = Path(folder)
    _delete(_checkpoints(folder))
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def resume(folder: str | Path, states: Mapping[str, Stateful]) -> Path | None:
    """Load ``states`` from the newest complete checkpoint.

    Returns:
        Its path, for ``Trainer.train(resume_from_checkpoint=...)``, which loads the rest. None if
        no checkpoint is complete; then no state is loaded.

    Raises:
        InputError: the checkpoint lacks one of the states.
    """
    checkpoint = newest_complete(folder)
    if checkpoint is None:
        return None
    lacking = [name for name in states if not (checkpoint / name).is_dir()]
    if lacking:
        raise InputError(
            f"{checkpoint} has no state of {', '.join(lacking)}, which this run needs; give the "
            f"command that began the run, or another output folder"
        )
    for name, state in states.items():
        state.load_state(checkpoint / name)
    return checkpoint


class Checkpointing(TrainerCallback):
    """Completes Trainer's checkpoints: adds ``states``, marks them complete, deletes old ones.

    Trainer calls ``on_save`` after the last file of the checkpoint and after every callback's
    ``on_step_end``. Give this callback last if another callback writes on saving. Leave
    ``save_total_limit`` unset, because Trainer would count incomplete checkpoints.

    Args:
        states: name → state; only the first process writes them to ``checkpoint-STEP/NAME/``.

    Raises:
        InputError: training begins before the step of a checkpoint in the folder.
        TrainingError: a trained weight is not finite; the checkpoint does not count.
    """

    def __init__(self, states: Mapping[str, Stateful]) -> None:
        self.states = dict(states)

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        newest = newest_complete(args.output_dir)
        # Otherwise pruning and the next resume would prefer the checkpoints of the other run.
        if newest is not None and _step(newest) > state.global_step:
            raise InputError(
                f"training begins at step {state.global_step}, but {newest} is of another run or "
                f"was not resumed from; resume from it, or give another output folder"
            )
        if state.is_world_process_zero:
            discard_torn(args.output_dir)  # else old files in them would count as complete

    def on_save(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        trained = () if model is None else model.named_parameters()
        for name, parameter in trained:
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise TrainingError(
                    f"{name} is not finite after step {state.global_step}, which is not saved; "
                    f"lower the learning rate ({args.learning_rate:g})"
                )
        if args.world_size > 1:
            distributed.barrier()  # every process writes its own random state
        if not state.is_world_process_zero:
            return
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for name, one in self.states.items():
            (checkpoint / name).mkdir(exist_ok=True)
            one.save_state(checkpoint / name)
        seal(checkpoint)
        prune(args.output_dir)


class StopOnSignal(TrainerCallback):
    """On SIGTERM (from a scheduler), finish the step, save a checkpoint and stop.

    Of a step at which other callbacks end training, it lets no checkpoint be saved.

    Use ``with StopOnSignal() as stop:`` around ``trainer.train()``. Outside the main thread Python
    allows no handler, so it has no effect. Give it after callbacks that end training themselves.

    Attributes:
        received: whether this process got the signal.
        stopped_at: the step at which a signal to any process ended training; None for other ends.
    """

    def __init__(self) -> None:
        self.received = False
        self.stopped_at: int | None = None
        self._previous: Any = None

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
            self._previous = None

    def _note(self, *_: object) -> None:
        self.received = True

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        stop = self.received
        if args.world_size > 1:  # all processes must stop at the same step, or the others hang
            flag = torch.tensor(int(stop), device=args.device)
            distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
            stop = bool(flag.item())
        if control.should_training_stop:
            # Where callbacks end training, nothing is saved: a resumed run would go on from there.
            control.should_save &= state.global_step >= state.max_steps
        elif stop:
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True
        return control


@contextmanager
def reported(folder: str | Path) -> Iterator[None]:
    """Use it around ``trainer.train()``: if the disk is full, the error names the remedy.

    Raises:
        MachineError: the disk is full. The incomplete checkpoint, which only takes up space, is
            deleted. Other errors pass unchanged.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_room(error):
            raise
        discard_torn(folder)
        good = newest_complete(folder)
        start = f"resumes from {good}" if good else "starts again: no checkpoint is complete"
        raise MachineError(
            f"the disk is full ({error}); free space under {folder} and give the same command "
            f"again: it {start}"
        ) from error


def _step(checkpoint: Path) -> int:
    match = NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint.name} is not a checkpoint's name; expected checkpoint-STEP")
    return int(match[1])


def _checkpoints(folder: str | Path) -> list[Path]:
    """Every folder named ``checkpoint-STEP``, complete or not, in order of steps."""
    named = (one for one in Path(folder).glob("checkpoint-*") if NAME.fullmatch(one.name))
    return sorted((one for one in named if one.is_dir()), key=_step)


def _delete(checkpoints: Iterable[Path]) -> None:
    for one in checkpoints:
        # Files that cannot be deleted now (NFS keeps open files) go at a later save.
        shutil.rmtree(one, ignore_errors=True)
