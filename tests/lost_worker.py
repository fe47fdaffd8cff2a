"""What a worker process runs in the tests of engines: light, so that it starts quickly."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from analyses.runs import Inputs, RunFolder

INPUTS = Inputs(("training",), {"made from": "these inputs"})


def make_or_be_lost(lost: str, out: Path, name: str, _threads: int) -> str:
    """One arm's folder, as an arm is made; the first worker that begins ``lost`` is killed."""
    run = RunFolder(out)
    with (out / "attempts.txt").open("a", encoding="utf-8") as attempts:
        attempts.write(f"{name}\n")
    if run.is_done(name, INPUTS):
        return name
    folder = run.begin(name, INPUTS)
    if name == lost and not (out / "lost").exists():
        (out / "lost").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "scores.txt").write_text(f"{name} by {os.getpid()}", encoding="utf-8")
    run.finish(name, INPUTS)
    return name
