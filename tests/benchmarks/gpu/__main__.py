"""What only a GPU shows, at 7B, in at most eight minutes: ``make bench-gpu``.

    python -m tests.benchmarks.gpu
    python -m tests.benchmarks.gpu --parts padding collect --small

It needs no installation: the machine's own Python with torch, transformers, peft and accelerate.
Each part runs in a separate process with a time limit and prints one line of JSON: ``part``,
``seconds``, its numbers, and ``met``, where a goal is a name and true, false or null. A part that
fails, or takes longer, gives a line with ``failed``, and the others go on. The last line sums up.

The exit code is 0 if every part ran, 1 if some failed, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

MOST = 480.0  # seconds of all parts together
Run = Callable[[bool, float | None], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes:
        run: the numbers, with small shapes or not, given the device's peak in teraflops.
        seconds: its time limit.
        by_default: whether it runs without being asked for.
    """

    run: Run
    seconds: float
    by_default: bool = True


def _step(name: str, *, four_bit: bool = False) -> Run:
    def run(small: bool, peak_teraflops: float | None) -> dict[str, Any]:
        from dataclasses import replace

        from tests.benchmarks.gpu.step import SMALL, GpuWorkload, training_step

        workload = replace(SMALL if small else GpuWorkload(), four_bit=four_bit)
        return training_step("tiny" if small else name, workload, peak_teraflops)

    return run


def _arms(small: bool, _peak: float | None) -> dict[str, Any]:
    from tests.benchmarks.gpu.step import SMALL, arms_in_a_row

    return arms_in_a_row("tiny", SMALL) if small else arms_in_a_row("qwen2.5-7b")


def _padding(small: bool, _peak: float | None) -> dict[str, Any]:
    from tests.benchmarks.gpu.reading import SMALL, padded_against_single

    return padded_against_single("tiny", SMALL) if small else padded_against_single("qwen2.5-7b")


def _collect(small: bool, _peak: float | None) -> dict[str, Any]:
    from tests.benchmarks.gpu.reading import SMALL, collect_against_trunk

    return collect_against_trunk("tiny", SMALL) if small else collect_against_trunk("qwen2.5-7b")


def _forecast(small: bool, _peak: float | None) -> dict[str, Any]:
    from tests.benchmarks.gpu.forecast import SMALL, forecast_kernel

    return forecast_kernel("tiny", SMALL) if small else forecast_kernel("qwen2.5-7b")


PARTS: Mapping[str, Part] = {
    "gpu_step.qwen2.5-7b": Part(_step("qwen2.5-7b"), 100),
    "gpu_step.mistral-7b": Part(_step("mistral-7b"), 100),
    "arms": Part(_arms, 70),
    "padding": Part(_padding, 50),
    "collect": Part(_collect, 50),
    "forecast": Part(_forecast, 90),
    "gpu_step.qwen2.5-7b.four_bit": Part(_step("qwen2.5-7b", four_bit=True), 100, by_default=False),
}


def report(command: Sequence[str], seconds: float) -> dict[str, Any]:
    """Run a part in a process: the JSON of its last line, or why it failed, and its seconds.

    The process is killed, with its children, after ``seconds``.
    """
    start = perf_counter()
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=Path(__file__).parents[3],
    )
    try:
        out, errors = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        return {"failed": f"took longer than {seconds:.0f} s", "seconds": seconds}
    taken = {"seconds": round(perf_counter() - start, 1)}
    lines = out.strip().splitlines()
    if running.returncode == 0 and lines:
        with suppress(ValueError):
            return taken | json.loads(lines[-1])
    said = [line for line in errors.splitlines() if line.strip()] or [
        f"the process ended with {running.returncode}"
    ]
    return {"failed": said[-1].strip(), "trace": said[-12:-1], **taken}


def run_parts(
    names: Sequence[str], arguments: Sequence[str], say: Callable[[dict[str, Any]], None]
) -> int:
    """Run each part in its turn; the exit code."""
    began = perf_counter()
    failed: list[str] = []
    missed: list[str] = []
    for name in names:
        left = MOST - (perf_counter() - began)
        if left < 5:
            found: dict[str, Any] = {"failed": "no time is left"}
        else:
            command = [sys.executable, "-m", "tests.benchmarks.gpu", "--only", name, *arguments]
            found = report(command, min(PARTS[name].seconds, left))
        failed += [name] if "failed" in found else []
        missed += [f"{name}.{goal}" for goal, met in found.get("met", {}).items() if met is False]
        say({"part": name, **found})
    total = round(perf_counter() - began, 1)
    say({"part": "all", "seconds": total, "failed": failed, "missed": missed})
    return int(bool(failed))


def machine() -> dict[str, Any]:
    """The device and the versions that the figures belong to."""
    import torch
    import transformers

    properties = torch.cuda.get_device_properties(0)
    return {
        "part": "machine",
        "device": properties.name,
        "gigabytes": properties.total_memory / 1e9,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _say(found: Mapping[str, Any]) -> None:
    print(json.dumps(found), flush=True)


def main() -> int:
    """Run the parts that are asked for, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = [name for name, part in PARTS.items() if part.by_default]
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=default)
    parser.add_argument("--small", action="store_true", help="tiny shapes, to try the parts")
    parser.add_argument("--peak-teraflops", type=float, help="dense bf16, of an unknown device")
    parser.add_argument("--only", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no GPU is visible to torch here; this benchmark measures one", file=sys.stderr)
        return 2
    if options.only:
        _say(PARTS[options.only].run(options.small, options.peak_teraflops))
        return 0
    _say(machine())
    arguments = ["--small"] * options.small
    if options.peak_teraflops:
        arguments += ["--peak-teraflops", str(options.peak_teraflops)]
    return run_parts(options.parts, arguments, _say)


if __name__ == "__main__":
    sys.exit(main())
