"""What a worker process runs in the tests of engines: light, so that it starts quickly."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from analyses.runs import Inputs, RunFolder

INPUTS = Inputs(("training",), {"made from": "these inputs"})


def make_or_be_lost(plan: Any, out: Path, name: str, _threads: int) -> str:
    """One arm's folder, as an arm is made; the first worker that begins one of them is killed."""
    lost = getattr(plan, "model", plan)
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


def make_late(plan: Any, out: Path, name: str, threads: int) -> str:
    """As above, but one arm never ends."""
    if name != plan.model:
        return make_or_be_lost(plan, out, name, threads)
    with (out / "attempts.txt").open("a", encoding="utf-8") as attempts:
        attempts.write(f"{name}\n")
    time.sleep(1000)
    return name


def note_device(_plan: Any, out: Path, name: str, _threads: int) -> str:
    """Write which GPU this process would use."""
    import torch

    (out / f"{name}.txt").write_text(str(torch.empty(0, device="cuda").device.index))
    return name
