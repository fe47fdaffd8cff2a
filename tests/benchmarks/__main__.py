"""Every benchmark that has a goal, into one file: ``make bench``.

    python -m tests.benchmarks --out build/benchmarks.json

Writes ``machine`` and one entry per quantity, ``{"value", "low", "high", "n", "goal", "at_least",
"met"}``: medians with 95% bootstrap intervals. The exit code says whether it ran, not whether goals
are met.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from interp.store import read_json, write_json
from tests.benchmarks.npo_step import in_fresh_process
from tests.benchmarks.paired import median, ratio
from tests.benchmarks.plans import Trial, outcome
from tests.benchmarks.workload import Workload
from tests.smollm2 import has_smollm2, save_smollm2

GOALS = {"resident_reference": 0.5, "flattened_cross_entropy": 0.6, "floor": 1.15}
MEMORY_GOAL = 0.6
# The other two ratios of full fine-tuning would take the whole past ten minutes.
AGAINST = {"lora": tuple(GOALS), "full": ("resident_reference",)}
# LoRA is the engine's default and the headline.
PREFIX = {"lora": "npo_step", "full": "npo_step.full"}

COLLECT = "tests.benchmarks.collect"
COSINE_MAP = "tests.benchmarks.cosine_map"
READOUT = "tests.benchmarks.readout"
EVALUATE = "tests.benchmarks.evaluate"
PREDICT = "tests.benchmarks.predict"
STUDY = "tests.benchmarks.study"
# By the tree's inner nodes below its root.
READOUT_GOALS = {1: 1.5, 4: 2.0, 8: 2.5}
# Others' time over ours is reported as measured.
COLLECT_OTHERS = ("transformer_lens", "nnsight", "output_hidden_states")


def main() -> None:
    """Run all, write the file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks.json"))
    parser.add_argument("--pairs", type=int, default=20, help="interleaved pairs per time ratio")
    parser.add_argument("--processes", type=int, default=3, help="fresh processes per peak")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--demo", action="store_true", help="time the whole demo as well")
    parser.add_argument("--workload", type=json.loads, default={}, help="a smaller one, as JSON")
    options = parser.parse_args()
    workload = Workload(**options.workload)
    start = perf_counter()
    entries = startup(demo=options.demo) | plans(demo=options.demo)
    for trained in PREFIX:
        entries |= step_times(workload, trained, options.pairs, options.threads)
        entries |= step_memory(workload, trained, options.processes)
    entries |= collect_times(workload, options.pairs, options.threads)
    entries |= cosine_map_times(options.threads)
    entries |= readout_times(workload, options.pairs, options.threads)
    if has_smollm2():
        entries |= smollm2_step_times(max(2, options.pairs // 2), options.threads)
        entries |= evaluate_times(max(1, options.pairs // 7), options.threads)
        entries |= study_times(options.threads)
        entries |= predict_costs(max(1, options.pairs // 20), options.threads)
    machine = described(options.threads) | {"seconds": round(perf_counter() - start)}
    write_json(options.out, {"machine": machine, **entries})
    console = Console()
    console.print(table(entries))
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    console.print(f"Written to {options.out}")


def startup(*, demo: bool) -> dict[str, Any]:
    """How long a newcomer waits: the start of the command line, and the whole demo if asked."""
    found = {"startup.help_seconds": median([_seconds("--help") for _ in range(5)])}
    if demo:
        with tempfile.TemporaryDirectory() as folder:
            found["demo.seconds"] = median([_seconds("demo", "--out", f"{folder}/run")])
    return found


def plans(*, demo: bool) -> dict[str, Any]:
    """The time that plans announce over the time that the commands take, on the organism."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial("organism", Path(folder))
        for command in ("evaluate", "unlearn", "compare", "contain", *(["demo"] * demo)):
            row = outcome(trial, command)
            for quantity in ("seconds", "main_bytes"):
                entry = f"plan.{command}.{quantity}.expected_over_actual"
                found[entry] = median([row[f"expected_{quantity}"] / row[quantity]])
    return found


def _seconds(*arguments: str) -> float:
    command = [str(Path(sys.executable).with_name("spillover")), *arguments]
    start = perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - start


def step_times(workload: Workload, trained: str, pairs: int, threads: int) -> dict[str, Any]:
    """Ratios of step times, and the seconds behind them."""
    against, prefix = AGAINST[trained], PREFIX[trained]
    arguments = ("time", trained, "--pairs", str(pairs), "--against", *against)
    (seconds,) = _outputs([in_fresh_process(workload, threads, *arguments)])
    entries = {
        f"{prefix}.vs_{other}": ratio(seconds["ours"], seconds[other], GOALS[other])
        for other in against
    }
    for name, values in seconds.items():
        entries[f"{prefix}.seconds.{name}"] = median(values)
    return entries


def step_memory(workload: Workload, trained: str, processes: int) -> dict[str, Any]:
    """Ratio of peak memory; two processes at a time, as nothing is timed."""
    prefix, other = PREFIX[trained], "resident_reference"
    peaks: dict[str, list[float]] = {"ours": [], other: []}
    for _ in range(processes):
        running = [in_fresh_process(workload, 1, "memory", way, trained) for way in peaks]
        for way, found in zip(peaks, _outputs(running), strict=True):
            peaks[way].append(found["peak"] - found["common"])
    return {
        f"{prefix}.peak_memory_vs_{other}": ratio(peaks["ours"], peaks[other], MEMORY_GOAL),
        **{f"{prefix}.peak_megabytes.{way}": median(values) for way, values in peaks.items()},
    }


def collect_times(workload: Workload, pairs: int, threads: int) -> dict[str, Any]:
    """Activations: ratios of times, and the seconds behind them."""
    run = (workload, threads)
    (seconds,) = _outputs([in_fresh_process(*run, "time", "--pairs", str(pairs), module=COLLECT)])
    few = str(max(1, pairs // 4))  # each takes as long as ten of the others
    (ordered,) = _outputs([in_fresh_process(*run, "sorted", "--pairs", few, module=COLLECT)])
    ours, trunk = seconds["ours"], seconds["trunk"]
    entries = {
        "collect.vs_trunk": ratio(ours, trunk, 1.05),
        "collect.early_exit_4_of_12": ratio(seconds["early_exit"], trunk, 0.40),
        **{f"collect.vs_{name}": ratio(seconds[name], ours) for name in COLLECT_OTHERS},
        "collect.sorted_vs_unsorted": ratio(
            ordered["unsorted"], ordered["sorted"], 2.0, at_least=True
        ),
    }
    for name, values in {**seconds, **ordered}.items():
        entries[f"collect.seconds.{name}"] = median(values)
    return entries


def readout_times(workload: Workload, pairs: int, threads: int) -> dict[str, Any]:
    """The refusal readout with trees of several sizes: ratios to the bare forward."""
    run = in_fresh_process(workload, threads, "--pairs", str(pairs), module=READOUT)
    (seconds,) = _outputs([run])
    return {
        f"readout.{nodes}_node{'s' * (nodes > 1)}_vs_forward": ratio(
            seconds[f"{nodes}_nodes"], seconds["forward"], goal
        )
        for nodes, goal in READOUT_GOALS.items()
    }


def cosine_map_times(threads: int) -> dict[str, Any]:
    """A probe's cosine map with a thousand draws: seconds, and ratios to two others' seconds."""
    command = [sys.executable, "-m", COSINE_MAP]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    (seconds,) = _outputs([running])
    ours = [seconds["fit"] + seconds["map"]]
    return {
        "cosine_map.logistic_seconds": median(ours, 180),
        "cosine_map.vs_scikit_learn": ratio(ours, [seconds["scikit_learn"]]),
        "cosine_map.vs_products": ratio(ours, [seconds["products"]]),
        **{f"cosine_map.seconds.{name}": median([value]) for name, value in seconds.items()},
    }


def smollm2_step_times(pairs: int, threads: int) -> dict[str, Any]:
    """A step of SmolLM2, with the adapters of a study, against its floor."""
    with tempfile.TemporaryDirectory() as folder:
        model = save_smollm2(Path(folder))
        vocabulary = read_json(model / "config.json")["vocab_size"]
        workload = Workload(
            vocabulary=vocabulary, tokens=80, response=20, rank=128, source=str(model)
        )
        arguments = ("time", "lora", "--pairs", str(pairs), "--against", "floor")
        (seconds,) = _outputs([in_fresh_process(workload, threads, *arguments)])
    prefix = "npo_step.smollm2"
    return {
        f"{prefix}.vs_floor": ratio(seconds["ours"], seconds["floor"], 1.05),
        **{f"{prefix}.seconds.{name}": median(values) for name, values in seconds.items()},
    }


def evaluate_times(pairs: int, threads: int) -> dict[str, Any]:
    """Evaluation of SmolLM2 against its parts: generation and the panel's pass."""
    command = [sys.executable, "-m", EVALUATE, "--pairs", str(pairs), "--threads", str(threads)]
    (found,) = _outputs([subprocess.Popen(command, stdout=subprocess.PIPE, text=True)])
    parts = [sum(one) for one in zip(found["generate"], found["panel"], strict=True)]
    named = ("ours", "generate", "panel")
    return {
        "evaluate.vs_generate": ratio(found["ours"], parts, 1.2),
        **{f"evaluate.seconds.{name}": median(found[name]) for name in named},
        **{f"evaluate.seconds.{name}": median([taken]) for name, taken in found["stages"].items()},
    }


def study_times(threads: int) -> dict[str, Any]:
    """A small study of SmolLM2 against the sum of its parts' floors."""
    command = [sys.executable, "-m", STUDY, "--threads", str(threads)]
    (found,) = _outputs([subprocess.Popen(command, stdout=subprocess.PIPE, text=True)])
    parts = found["floors"] | found["more"]
    taken = {"study": found["study"], **{f"floor.{name}": value for name, value in parts.items()}}
    stages = {f"stage.{name}": seconds for name, seconds in found["stages"].items()}
    return {
        "study.vs_parts": ratio([found["study"]], [sum(found["floors"].values())], 1.15),
        "study.vs_all_parts": ratio([found["study"]], [sum(parts.values())], 1.15),
        **{f"study.seconds.{name}": median([value]) for name, value in (taken | stages).items()},
    }


def predict_costs(pairs: int, threads: int) -> dict[str, Any]:
    """A forecast on SmolLM2: ratios to one forward and backward, and to a training step's peak."""
    with tempfile.TemporaryDirectory() as folder:
        model = save_smollm2(Path(folder) / "model")
        common = ["--model", str(model), "--threads", str(threads)]

        def measured(*arguments: str) -> Any:  # one after another: a step takes 10 GB
            command = [sys.executable, "-m", PREDICT, *arguments, *common]
            return _outputs([subprocess.Popen(command, stdout=subprocess.PIPE, text=True)])[0]

        seconds = measured("time", "--pairs", str(pairs))
        ours, step = ([measured("memory", way)["megabytes"]] for way in ("forecast", "step"))
    return {
        "predict.vs_backward": ratio(seconds["ours"], seconds["bare"], 1.5),
        "predict.memory_vs_training_step": ratio(ours, step, 2.0),
        **{f"predict.seconds.{name}": median(values) for name, values in seconds.items()},
        "predict.peak_megabytes.ours": median(ours),
        "predict.peak_megabytes.step": median(step),
    }


def _outputs(running: list[subprocess.Popen[str]]) -> list[Any]:
    texts = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a benchmark failed; its message is above")
    return [json.loads(text.splitlines()[-1]) for text in texts]


def described(threads: int) -> dict[str, Any]:
    """The machine and the versions that the figures belong to."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load_at_end": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(entries: dict[str, Any]) -> Table:
    """The entries as they are read: value, interval, goal."""
    shown = Table()
    for heading in ("quantity", "median", "95% interval", "n", "goal", "met"):
        shown.add_column(heading, overflow="fold")
    for name, entry in entries.items():
        shown.add_row(
            name,
            f"{entry['value']:.3g}",
            f"{entry['low']:.3g} – {entry['high']:.3g}",
            str(entry["n"]),
            "" if entry["goal"] is None else f"{'≥' if entry['at_least'] else '≤'} {entry['goal']}",
            {None: "", True: "yes", False: "NO"}[entry["met"]],
        )
    return shown


if __name__ == "__main__":
    main()
