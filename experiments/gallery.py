"""Rows of the gallery's figures of longer commands: ``python -m experiments gallery``.

Three runs of the packaged model organism on a part of its prompts: every domain unlearned in turn,
one containment study with its shallow-recovery tests, and one reproduction. What their figures need
is in ``docs/gallery/rows``; the gallery draws it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from analyses.contain import FOLDER, contain
from analyses.contain.shallow_recovery.measure import TABLES, ShallowRecovery
from analyses.options import ORGANISM
from analyses.reproduce import reproduce
from analyses.runs import Progress
from analyses.study import organism_plan, run_study
from experiments.example_run import ship
from interp.store import write_csv
from unlearning.data import DOMAINS
from unlearning.organism import load_world, shipped

ROWS = Path(__file__).resolve().parents[1] / "docs" / "gallery" / "rows"
PROMPTS = {"train": 48, "validation": 12, "test": 24}
CONCEPT = "safety"
DIGITS = 5  # significant ones, of a CSV file
OF_A_MATRIX = (
    *("config.json", "manifest.json", "prompts.parquet"),
    *(f"arms/*/{name}" for name in ("DONE", "config.json", "scores.parquet", "openers.json")),
)


def make_gallery_rows(out: Path = ROWS, work: str | Path | None = None) -> Path:
    """Run the commands (some ten minutes), and write the rows of their figures into ``out``.

    Args:
        out: the folder of the rows.
        work: folder of the runs, which an interrupted call resumes (default: a temporary one).
    """
    with TemporaryDirectory() as scratch:
        runs = Path(work or scratch)
        runs.mkdir(parents=True, exist_ok=True)
        prompts = runs / "prompts.jsonl"
        if not prompts.is_file():
            load_world(shipped()).prompts(**PROMPTS).to_json(prompts, orient="records", lines=True)
        asked: dict[str, Any] = {"prompts": str(prompts), "timing": False}
        plan = organism_plan(
            str(shipped()), DOMAINS, seeds=(0,), command="python -m experiments gallery"
        )
        run_study(
            replace(plan, prompts=str(prompts), every_step=False), runs / "matrix", Progress()
        )
        ship(runs / "matrix", out / "matrix", OF_A_MATRIX)
        contain(
            ORGANISM, concept=CONCEPT, methods="equal", examples="all", splits=1, retain_weight=0.1,
            out=runs / "contain", **asked,
        )  # fmt: skip
        _copy(runs / "contain" / FOLDER, out / "contain", (*TABLES, "residue"))
        reproduce(
            "mushtaq2025", ORGANISM, concept=[CONCEPT], out=runs / "reproduce", yes=True, **asked
        )
        _copy(runs / "reproduce", out / "reproduce", ("reproduction", "entanglement"))
    return out


def _copy(folder: Path, out: Path, names: tuple[str, ...]) -> None:
    for name in names:
        table = pd.read_csv(folder / f"{name}.csv")
        floats = table.select_dtypes("float")
        short = {str(c): [float(f"{v:.{DIGITS}g}") for v in floats[c]] for c in floats}
        write_csv(out / f"{name}.csv", table.assign(**short))


def shallow_recovery() -> ShallowRecovery:
    """The shipped shallow-recovery tests."""
    return ShallowRecovery.from_tables(CONCEPT, ("contained",), ROWS / "contain")
