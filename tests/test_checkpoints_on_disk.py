"""Only a whole checkpoint counts, and losing the newest costs no more than that."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from interp.errors import InputError, MachineError, TrainingError
from interp.store import read_json, write_json
from unlearning.training import checkpoints, newest_complete
from unlearning.training.checkpoints import (
    Checkpointing,
    StopOnSignal,
    discard_torn,
    is_complete,
    prune,
    reported,
    resume,
    seal,
)


def save(folder: Path, step: int) -> Path:
    """A sealed checkpoint with a file at the top, one further down and an empty one."""
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "scores").mkdir(parents=True)
    (checkpoint / "model.bin").write_bytes(b"weights" * step)
    (checkpoint / "scores" / "table.bin").write_bytes(b"rows" * step)
    (checkpoint / "empty").touch()
    seal(checkpoint)
    return checkpoint


def truncate(checkpoint: Path) -> None:
    os.truncate(checkpoint / "model.bin", 3)


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "scores" / "table.bin").unlink()


def lose_the_list(checkpoint: Path) -> None:
    (checkpoint / "complete.json").unlink()


def tear_the_list(checkpoint: Path) -> None:
    text = (checkpoint / "complete.json").read_text(encoding="utf-8")
    (checkpoint / "complete.json").write_text(text[: len(text) // 2], encoding="utf-8")


def empty(checkpoint: Path) -> None:
    for path in sorted(checkpoint.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


TEARS = (truncate, lose_a_file, lose_the_list, tear_the_list, empty)


@pytest.mark.parametrize("tear", TEARS)
def test_a_torn_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, tear: Any) -> None:
    good, torn = save(tmp_path, 9), save(tmp_path, 10)
    assert newest_complete(tmp_path) == torn
    tear(torn)
    assert newest_complete(tmp_path) == good
    # What this replaces looks at names alone.
    assert get_last_checkpoint(tmp_path) == str(torn)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"step": 1}', '{"step": 1, "files": {}}', '{"files": 3}']
)
def test_a_list_of_nothing_completes_nothing(tmp_path: Path, text: str) -> None:
    checkpoint = save(tmp_path, 1)
    (checkpoint / "complete.json").write_text(text, encoding="utf-8")
    assert not is_complete(checkpoint)


def test_a_checkpoint_is_of_the_step_it_was_sealed_at(tmp_path: Path) -> None:
    moved = save(tmp_path, 4).rename(tmp_path / "checkpoint-40")
    assert not is_complete(moved)


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-2").write_text("a file", encoding="utf-8")
    save(tmp_path, 3).rename(tmp_path / "checkpoint-three")
    assert newest_complete(tmp_path) is None
    assert newest_complete(tmp_path / "absent") is None
    assert resume(tmp_path, {}) is None


def test_the_list_is_written_after_all_it_lists_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("open files have no names here")
    monkeypatch.setattr(os, "fsync", noted)
    save(tmp_path, 1)
    written = next(i for i, name in enumerate(events) if name.startswith(".complete.json"))
    assert set(events[:written]) == {"model.bin", "table.bin", "empty", "scores", "checkpoint-1"}
    assert events[written + 1 :] == ["checkpoint-1", tmp_path.name]


def test_prune_keeps_two_whole_ones_and_what_is_not_its_own(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 20):
        save(tmp_path, step)
    truncate(tmp_path / "checkpoint-10")  # torn, older than the newest: goes, and counts for none
    (tmp_path / "checkpoint-21").mkdir()  # being written, for all that prune knows
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "scores.parquet").touch()
    prune(tmp_path)
    kept = {"checkpoint-3", "checkpoint-20", "checkpoint-21", "checkpoint-best", "scores.parquet"}
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_prune_deletes_nothing_before_a_newer_one_is_whole(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        lose_the_list(save(tmp_path, step))
    prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(InputError, match="at least 1"):
        prune(tmp_path, keep=0)


STEPS = st.lists(st.tuples(st.integers(1, 3), st.sampled_from((None, *TEARS))), max_size=6)


@settings(max_examples=40)
@given(run=STEPS, pruned=st.booleans(), keep=st.integers(1, 3))
def test_the_newest_untouched_checkpoint_wins(
    run: Sequence[tuple[int, Any]], pruned: bool, keep: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, step, whole = Path(name), 0, []
        for gap, tear in run:
            step += gap
            checkpoint = save(folder, step)
            if tear is None:
                whole.append(checkpoint)
            else:
                tear(checkpoint)
            if pruned:
                prune(folder, keep)
        assert newest_complete(folder) == (whole[-1] if whole else None)
        discard_torn(folder)
        if pruned:
            assert sorted(folder.iterdir()) == sorted(whole[-keep:])
        else:
            assert newest_complete(folder) == (whole[-1] if whole else None)


class Regression(nn.Module):
    """Two weights to fit, and a dropout, so that the random state matters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(2, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        kept = nn.functional.dropout(x, 0.5, training=self.training)
        return {"loss": (self.linear(kept).squeeze(-1) - y).square().mean()}


class Points(Dataset):
    def __init__(self) -> None:
        self.x = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> Mapping[str, Tensor]:
        return {"x": self.x[i], "y": self.x[i].sum()}


class Seen(TrainerCallback):
    """A run's own state: which steps it has seen."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        self.steps.append(state.global_step)

    def save_state(self, folder: Path) -> None:
        write_json(folder / "steps.json", self.steps)

    def load_state(self, folder: Path) -> None:
        self.steps = read_json(folder / "steps.json")


def training(
    folder: Path, seen: Seen, *more: TrainerCallback, steps: int = 4, save_steps: int = 1
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        max_steps=steps,
        learning_rate=0.1,
        lr_scheduler_type="constant",  # whatever the number of steps
        save_steps=save_steps,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    callbacks = [seen, *more, Checkpointing({"seen": seen})]
    return Trainer(Regression(), arguments, train_dataset=Points(), callbacks=callbacks)


def train(folder: Path, **settings: Any) -> tuple[Trainer, Seen]:
    """The same command: begins the run, or goes on with it."""
    seen = Seen()
    trainer = training(folder, seen, **settings)
    checkpoint = resume(folder, {"seen": seen})
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    return trainer, seen


def weights(trainer: Trainer) -> Tensor:
    return torch.cat([one.detach().flatten() for one in trainer.model.parameters()])


def test_what_trainer_saves_is_sealed_with_all_its_files(tmp_path: Path) -> None:
    train(tmp_path)
    kept = [tmp_path / "checkpoint-3", tmp_path / "checkpoint-4"]
    assert sorted(tmp_path.glob("checkpoint-*")) == kept
    for checkpoint in kept:
        files = read_json(checkpoint / "complete.json")["files"]
        on_disk = {p.relative_to(checkpoint).as_posix() for p in checkpoint.rglob("*.*")}
        assert set(files) == on_disk - {"complete.json"}
        wanted = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"}
        assert wanted | {"trainer_state.json", "seen/steps.json"} <= set(files)
        assert is_complete(checkpoint)


@pytest.mark.parametrize("torn", ["optimizer.pt", "complete.json", None])
def test_a_torn_newest_costs_only_itself(tmp_path: Path, torn: str | None) -> None:
    whole, _ = train(tmp_path / "whole", steps=6)
    train(tmp_path / "torn", steps=4)
    newest = tmp_path / "torn" / "checkpoint-4"
    if torn is not None:
        os.truncate(newest / torn, 10)
        (newest / "left_over.bin").touch()
    seen = Seen()
    found = resume(tmp_path / "torn", {"seen": seen})
    last = 4 if torn is None else 3
    assert found == tmp_path / "torn" / f"checkpoint-{last}"
    assert seen.steps == list(range(1, last + 1))
    again, seen = train(tmp_path / "torn", steps=6)
    assert seen.steps == list(range(1, 7))
    assert torch.equal(weights(again), weights(whole))


def test_what_a_torn_folder_held_is_not_sealed_as_part_of_its_successor(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "rng_state_7.pth").touch()
    train(tmp_path, steps=2)
    assert is_complete(tmp_path / "checkpoint-2")
    assert not (tmp_path / "checkpoint-2" / "rng_state_7.pth").exists()


def test_a_run_does_not_begin_among_later_checkpoints(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(InputError, match="checkpoint-4"):
        training(tmp_path, Seen()).train()


def test_resume_names_the_state_that_is_lacking(tmp_path: Path) -> None:
    train(tmp_path, steps=1)
    with pytest.raises(InputError, match="no state of multipliers"):
        resume(tmp_path, {"seen": Seen(), "multipliers": Seen()})


def test_one_process_seals_after_every_process_has_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: Any = type("Arguments", (), {"world_size": 2, "output_dir": str(tmp_path)})
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    (checkpoint / "rng_state_0.pth").touch()

    def other_process() -> None:
        assert not (checkpoint / "complete.json").exists()
        (checkpoint / "rng_state_1.pth").touch()

    monkeypatch.setattr(checkpoints.distributed, "barrier", other_process)
    for rank in (1, 0):
        state = TrainerState(global_step=1, is_world_process_zero=rank == 0)
        Checkpointing({}).on_save(arguments, state, TrainerControl())
        assert is_complete(checkpoint) == (rank == 0)
    assert "rng_state_1.pth" in read_json(checkpoint / "complete.json")["files"]


class Signalled(TrainerCallback):
    """Sends this process SIGTERM in the middle of a step, as a scheduler may."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def signalled_run(folder: Path) -> None:
    """What the child processes below do; the last one to start gets the signal."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    stop = StopOnSignal()
    more = [Signalled(3)] if rank == size - 1 else []
    trainer = training(folder, Seen(), *more, stop, steps=1000, save_steps=500)
    with stop:
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    write_json(folder / f"rank_{rank}.json", [stop.received, stop.stopped_at])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_a_checkpoint_and_leaves(tmp_path: Path, processes: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = (
        "from pathlib import Path; from tests.test_checkpoints_on_disk import signalled_run; "
        f"signalled_run(Path({str(tmp_path)!r}))"
    )
    children = []
    for rank in range(processes):
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        if processes > 1:
            variables |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": port}
            variables |= {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1"}
        root = Path(__file__).parents[1]
        children.append(subprocess.Popen([sys.executable, "-c", command], cwd=root, env=variables))
    try:
        assert [child.wait(timeout=300) for child in children] == [0] * processes
    finally:
        for child in children:
            child.kill()
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-3"
    for rank in range(processes):
        assert read_json(tmp_path / f"rank_{rank}.json") == [rank == processes - 1, 3]
    files = read_json(tmp_path / "checkpoint-3" / "complete.json")["files"]
    assert len([name for name in files if name.startswith("rng_state")]) == processes
    if processes == 1:
        # The checkpoint says that training was to stop; the run that goes on must not heed it.
        again, seen = train(tmp_path, steps=5)
        assert again.state.global_step == 5
        assert seen.steps == [1, 2, 3, 4, 5]


class Ending(TrainerCallback):
    """Ends training at a step, as a curve that is drawn does; it does not know earlier ones."""

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        control.should_training_stop |= state.global_step == 3


def test_a_run_that_had_ended_ends_at_the_same_step_again(tmp_path: Path) -> None:
    """It was killed after its training: a checkpoint of the last step would train beyond it."""
    found = []
    for _ in range(2):
        seen, stop = Seen(), StopOnSignal()
        trainer = training(tmp_path, seen, Ending(), stop, steps=6)
        checkpoint = resume(tmp_path, {"seen": seen})
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        assert (seen.steps, stop.stopped_at) == ([1, 2, 3], None)
        found.append(weights(trainer))
    assert checkpoint is not None and torch.equal(*found)


def test_the_handler_is_gone_afterwards_and_left_alone_in_threads() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopOnSignal() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received
    assert signal.getsignal(signal.SIGTERM) is before
    found: list[Any] = []

    def elsewhere() -> None:
        with StopOnSignal():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [before]


FULL = (
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.safetensors"),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 640 vs 534"),
)


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("at", ["_save_rng_state", "state"])
def test_a_full_disk_ends_the_run_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, at: str
) -> None:
    def full(*_: object) -> None:
        raise error

    seen = Seen()
    trainer = training(tmp_path, seen, steps=3)
    trainer.train()
    longer = training(tmp_path, seen, steps=5)
    with monkeypatch.context() as patched:
        patched.setattr(*((Seen, "save_state") if at == "state" else (Trainer, at)), full)
        with pytest.raises(MachineError, match="free space") as caught, reported(tmp_path):
            longer.train(resume_from_checkpoint=str(resume(tmp_path, {"seen": seen})))
    assert str(tmp_path / "checkpoint-3") in str(caught.value)
    assert caught.value.__cause__ is error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint-2", "checkpoint-3"]
    _, seen = train(tmp_path, steps=5)
    assert seen.steps == [1, 2, 3, 4, 5]


def test_a_full_disk_at_the_first_save_says_that_the_run_starts_anew(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-1").mkdir()
    with pytest.raises(MachineError, match="no checkpoint is complete"), reported(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not (tmp_path / "checkpoint-1").exists()


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), TrainingError("the loss is nan"), FileNotFoundError("x")]
)
def test_other_errors_pass_and_delete_nothing(tmp_path: Path, error: Exception) -> None:
    torn = save(tmp_path, 1)
    truncate(torn)
    with pytest.raises(type(error)) as caught, reported(tmp_path):
        raise error
    assert caught.value is error
    assert torn.exists()


def test_the_list_is_readable(tmp_path: Path) -> None:
    listed = json.loads((save(tmp_path, 2) / "complete.json").read_text(encoding="utf-8"))
    files = {"model.bin": 14, "scores/table.bin": 8, "empty": 0}
    assert listed == {"step": 2, "files": files}
