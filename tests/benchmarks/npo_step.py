"""Time and memory of one NPO step with a retain term: the engine against the usual way.

    python -m tests.benchmarks.npo_step time lora --pairs 20
    python -m tests.benchmarks.npo_step memory ours lora

The engine's step is everything that ``unlearn`` does between two steps: drawing and padding rows,
forward, backward, clipping, AdamW, logging. Reference log-probs are computed once, before, and
their cost is given beside. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

# Loaded before memory is looked at, though the engine would load some of them only when needed.
import accelerate  # noqa: F401
import numpy as np
import pandas  # noqa: F401
import peft  # noqa: F401
import torch
from transformers import TrainerCallback

from tests.benchmarks.usual_step import every_way
from tests.benchmarks.workload import Workload
from unlearning.training import unlearn_in_place, with_references

MEGABYTE = 1e6


def times(
    workload: Workload, trained: str, against: Sequence[str], pairs: int
) -> dict[str, list[float]]:
    """Seconds of ``pairs`` steps of ours and of each other way, interleaved.

    ``reference_pass`` holds one number: the seconds that the cached log-probs cost, once a run.
    """
    others = {name: every_way(workload, trained)[name]() for name in against}
    interleaved = Interleaved(others)
    reference_pass = _ours(workload, trained, pairs + 1, [interleaved])
    return {**interleaved.seconds, "reference_pass": [reference_pass]}


class Interleaved(TrainerCallback):
    """After each of the engine's steps, one step of every other way, in random order.

    The first round only warms up.
    """

    def __init__(self, others: Mapping[str, Callable[[], object]]) -> None:
        self.others = others
        self.seconds: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
        self.began: float | None = None
        self.rng = np.random.default_rng(0)

    def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
        warm = self.began is not None
        if self.began is not None:
            self.seconds["ours"].append(perf_counter() - self.began)
        for name in self.rng.permutation(list(self.others)):
            start = perf_counter()
            self.others[name]()
            if warm:
                self.seconds[name].append(perf_counter() - start)
        self.began = perf_counter()


def _ours(
    workload: Workload, trained: str, steps: int, callbacks: Sequence[TrainerCallback] = ()
) -> float:
    """Run the engine; seconds that the reference log-probs took."""
    lm = workload.prepared(trained)
    start = perf_counter()
    mixture = with_references(lm, workload.mixture(), {"reference"})
    seconds = perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        settings = workload.settings(trained, steps)
        unlearn_in_place(lm, mixture, settings, folder=folder, callbacks=callbacks)
    return seconds


def peak(workload: Workload, way: str, trained: str, steps: int = 2) -> dict[str, float]:
    """Peak resident memory of THIS process over its memory now, and how much of it any way needs.

    Two steps: AdamW's moments are there from the second on. The high-water mark is the kernel's
    for this very address space (VmHWM): ``ru_maxrss`` would carry the parent's peak across fork
    and exec.

    Returns:
        ``peak`` and ``common``, in MB: of full fine-tuning, float32 weights, gradients and the
        two moments of AdamW are common to all ways; of LoRA nothing is left out.
    """
    before = resident("VmRSS")
    if way == "ours":
        _ours(workload, trained, steps)
    else:
        step = every_way(workload, trained)[way]()
        for _ in range(steps):
            step()
    found = resident("VmHWM") - before
    parameters = sum(p.numel() for p in workload.model().model.parameters())
    common = 4 * 4 * parameters if trained == "full" else 0
    return {"peak": found / MEGABYTE, "common": common / MEGABYTE}


def resident(field: str) -> int:
    """Bytes, from the kernel's account of this process; Linux only."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def in_fresh_process(
    workload: Workload, threads: int, *arguments: str, module: str = "tests.benchmarks.npo_step"
) -> subprocess.Popen[str]:
    """A benchmark's module run with ``arguments``; its output is one JSON object."""
    options = ["--threads", str(threads), "--workload", json.dumps(dataclasses.asdict(workload))]
    command = [sys.executable, "-m", module, *arguments, *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    timing = commands.add_parser("time")
    timing.add_argument("trained", choices=["lora", "full"])
    timing.add_argument("--against", nargs="+", default=list(every_way(Workload(), "lora")))
    timing.add_argument("--pairs", type=int, default=20)
    memory = commands.add_parser("memory")
    memory.add_argument("way", choices=["ours", *every_way(Workload(), "lora")])
    memory.add_argument("trained", choices=["lora", "full"])
    for command in (timing, memory):
        command.add_argument("--threads", type=int, default=torch.get_num_threads())
        command.add_argument("--workload", type=json.loads, default={})
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    workload = Workload(**options.workload)
    found: object
    if options.command == "time":
        found = times(workload, options.trained, options.against, options.pairs)
    else:
        found = peak(workload, options.way, options.trained)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
