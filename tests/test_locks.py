"""One process at a time: others learn who holds a lock, and a killed process holds none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from interp.errors import InputError
from interp.locks import locked

HOLD = """
import sys, time
from interp.locks import locked
with locked(sys.argv[1], "the folder"):
    print("held", flush=True)
    time.sleep(60)
"""


def take(lock: Path) -> None:
    with locked(lock, "the folder"):
        pass


def test_the_second_learns_who_holds_it_and_takes_over_from_a_killed_process(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "deeper" / "run.lock"
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match=f"the folder is in use by process {process.pid} on"):
        take(lock)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    for _ in range(2):  # and is free again afterwards
        with locked(lock, "the folder"), pytest.raises(InputError, match=f"process {os.getpid()}"):
            take(lock)


def test_a_note_that_is_torn_or_gone_says_another_process(tmp_path: Path) -> None:
    with locked(tmp_path / "run.lock", "the folder"):
        for text in ("{", "[]", None):
            note = tmp_path / "run.json"
            note.write_text(text, encoding="utf-8") if text else note.unlink()
            with pytest.raises(InputError, match="in use by another process"):
                take(tmp_path / "run.lock")


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the folder cannot be written"):
        take(tmp_path / "file" / "run.lock")
