"""The small finished run that the package ships: ``python -m experiments example-run``.

It unlearns two domains of the model organism, one of them with a retain set too, on a part of the
model organism's prompts. It leaves out weights, caches, figures, the report and paths of this
machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from analyses.options import ORGANISM
from analyses.runs import BASE, Progress, update_config
from analyses.study import organism_plan, run_study
from interp.directions import DirectionSet
from unlearning.organism import load_world, shipped

CONCEPTS = ("cybersecurity", "safety")
RETAIN = {"cybersecurity": ("safety", "bias", "medical_legal")}
WEIGHT = 10.0
PROMPTS = {"train": 64, "validation": 12, "test": 16}
KEPT = (
    *("*.json", "*.parquet"),
    *(f"arms/*/{name}" for name in ("DONE", "config.json", "directions.safetensors")),
    *(f"arms/*/{name}.parquet" for name in ("log", "rotation", "scores")),
    "arms/*/openers.json",
)


def make_example_run(out: Path) -> Path:
    """Make the run (two minutes) and write the kept files into the folder ``out``."""
    with TemporaryDirectory() as scratch:
        run, prompts = Path(scratch) / "run", Path(scratch) / "prompts.jsonl"
        load_world(shipped()).prompts(**PROMPTS).to_json(prompts, orient="records", lines=True)
        plan = organism_plan(
            str(shipped()), CONCEPTS, seeds=(0,), retain=RETAIN, weights=(WEIGHT,),
            command="python -m experiments example-run",
        )  # fmt: skip
        run_study(replace(plan, prompts=str(prompts), every_step=False), run, Progress())
        return ship(run, out, KEPT)


def ship(run: Path, out: Path, kept: Sequence[str]) -> Path:
    """Copy a run's files of the patterns ``kept``: without paths, in single precision."""
    shutil.rmtree(out, ignore_errors=True)
    for path in (path for pattern in kept for path in run.glob(pattern)):
        target = out / path.relative_to(run)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    without_paths(out)
    for path in out.rglob("*.parquet"):
        table = pd.read_parquet(path)
        halved = table.astype(dict.fromkeys(table.select_dtypes("float64"), "float32"))
        halved.to_parquet(path, index=False, compression="zstd", compression_level=19)
    return out


def without_paths(run: Path) -> None:
    """Replace this machine's paths of the model and the prompts by their names."""
    update_config(run / "config.json", model=ORGANISM, prompts="a part of its own world")
    update_config(run / "arms" / BASE / "config.json", checkpoint=ORGANISM)
    for path in run.rglob("directions.safetensors"):
        found = DirectionSet.load(path)
        replace(found, provenance={**found.provenance, "model": ORGANISM}).save(path)
