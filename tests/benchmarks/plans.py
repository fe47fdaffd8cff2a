"""Plans against outcomes: time and main memory of many commands, each in its own process.

    python -m tests.benchmarks.plans organism --out build/plans
    python -m tests.benchmarks.plans FOLDER --commands evaluate,study --new-tokens 16 --steps 4

Every command prints its plan and runs; the folder's manifest holds both. Prompts are the model
organism's, or a cut of the built-in pairs. Where other programs share the processor, compare with
``processor``, the seconds that the command itself computed. A finished command is not run again.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from interp.store import read_json
from unlearning.data import matched_pairs

TARGET, OTHER, THIRD = "safety", "cybersecurity", "toxicity"
# Rows of a domain: unlearning needs 32 refusals among the training prompts.
HARMFUL, BENIGN, EVALUATED = 40, 12, 6
EXPLAINED = 4  # prompts of a domain whose loss is explained
RUNS = ("study", "matrix", "unlearn")  # with an arm of the target, whose losses can be explained
COMMANDS = (
    "evaluate", "deflect", "unlearn", "compare", "study", "matrix", "contain", "predict", "explain",
)  # fmt: skip
KERNEL = "predict-"  # before a kernel's name: a forecast with it


@dataclass(frozen=True)
class Trial:
    """The model and the sizes of all commands; None for a command's default.

    Attributes:
        model: folder or name.
        out: folder of the runs, one for each command.
        prompts: file of prompts.
        new_tokens: maximum of an answer.
        batch_size: forget examples in a step.
        steps: optimizer steps at most.
    """

    model: str
    out: Path
    prompts: Path | None = None
    new_tokens: int | None = None
    batch_size: int | None = None
    steps: int | None = None

    def arguments(self, command: str) -> list[str]:
        """The command line of ``command``, without the program's name."""
        shared = ["--out", str(self.out / command)]
        shared += ["--prompts", str(self.prompts)] * (self.prompts is not None)
        shared += _given("--max-new-tokens", self.new_tokens)
        trained = _given("--batch-size", self.batch_size) + _given("--max-steps", self.steps)
        one = [self.model, "--concept", TARGET]
        match command:
            case "demo":
                return [command, "--out", str(self.out / command)]
            case "evaluate":
                return [command, self.model, *shared]
            case "deflect":
                return [command, *one, *shared]
            case "matrix":
                return [command, *one, "--concept", OTHER, "--no-control", *shared, *trained]
            case "contain":
                few = ["--methods", "equal", "--examples", "8", "--splits", "1", "--left-out", "1"]
                return [command, *one, *few, "--retain-weight", "0.1", *shared, *trained]
            case "explain":
                few = ["--max-prompts", str(EXPLAINED), "--draws", "20", "--place-draws", "0"]
                return [command, str(self.explained), "--arm", f"{TARGET}-npo-seed0", *few]
            case "compare":
                [after] = [
                    path
                    for name in ("adapter", "model")
                    for path in self.out.glob(f"unlearn/arms/*/{name}")
                ]
                return [command, self.model, str(after), *shared]
            case _ if command.startswith(KERNEL):
                kernel = command.removeprefix(KERNEL)
                return ["predict", *one, "--kernel", kernel, *shared, *trained]
            case _:
                return [command, *one, *shared, *trained]

    @property
    def explained(self) -> Path:
        """The finished run whose losses are explained."""
        folders = [self.out / name for name in RUNS]
        return next((one for one in folders if (one / "manifest.json").is_file()), folders[0])

    def manifest(self, command: str) -> Path:
        """The file that holds the plan and the outcome of a command."""
        if command != "explain":
            return self.out / command / "manifest.json"
        return self.explained / "causes" / f"{TARGET}-npo-seed0" / "manifest.json"


def _given(option: str, value: int | None) -> list[str]:
    return [] if value is None else [option, str(value)]


def cut_prompts(folder: Path) -> Path:
    """A file with three domains of the built-in pairs, few of each."""
    table = matched_pairs()
    table = table[table["domain"].isin([TARGET, OTHER, THIRD])]
    trained = {"harmful": HARMFUL, "benign": BENIGN}
    kept = [
        rows.head(trained[str(label)] if split == "train" else EVALUATED)
        for (_, split, label), rows in table.groupby(["domain", "split", "label"], sort=False)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    pd.concat(kept).to_json(folder / "prompts.jsonl", orient="records", lines=True)
    return folder / "prompts.jsonl"


def outcome(trial: Trial, command: str) -> dict[str, float]:
    """Run a command unless its folder holds an outcome.

    Returns:
        ``expected_seconds``, ``at_most_seconds``, ``seconds`` (the processor's), ``wall_seconds``,
        ``expected_main_bytes`` and ``main_bytes``.
    """
    manifest = trial.manifest(command)
    if not manifest.is_file() or not (read_json(manifest).get("plan") or {}).get("actual"):
        line = [sys.executable, "-m", "spillover", *trial.arguments(command)]
        with (trial.out / f"{command}.log").open("w") as log:
            subprocess.run(line, check=True, stdout=log, stderr=log)
    plan = read_json(manifest)["plan"]
    expected, actual = plan["expected"], plan["actual"]
    return {
        "expected_seconds": expected["seconds"],
        "at_most_seconds": expected["seconds_at_most"],
        "seconds": actual["processor_seconds"],
        "wall_seconds": actual["seconds"],
        "expected_main_bytes": expected["main_bytes"],
        "main_bytes": actual["main_bytes"],
    }


def shown(rows: Mapping[str, Mapping[str, float]]) -> Table:
    """The outcomes of commands as they are read: seconds and gigabytes."""
    table = Table(
        "command", "expected", "at most", "took", "wall", "ratio", "memory", "took", "ratio"
    )
    for command, row in rows.items():
        seconds = [row[n] for n in ("expected_seconds", "at_most_seconds", "seconds")]
        memory = [row[n] / 1e9 for n in ("expected_main_bytes", "main_bytes")]
        table.add_row(
            command,
            *(f"{value:.3g} s" for value in (*seconds, row["wall_seconds"])),
            f"{seconds[0] / seconds[2]:.2f}",
            *(f"{value:.2f} GB" for value in memory),
            f"{memory[0] / memory[1]:.2f}",
        )
    return table


def main() -> None:
    """Run the commands and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--out", type=Path, default=Path("build/plans"))
    parser.add_argument("--prompts", type=Path, help="file (default: the organism's, or a cut one)")
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", type=int)
    given = parser.parse_args()
    prompts = given.prompts
    if prompts is None and given.model != "organism":
        prompts = cut_prompts(given.out)
    given.out.mkdir(parents=True, exist_ok=True)
    trial = Trial(given.model, given.out, prompts, given.new_tokens, given.batch_size, given.steps)
    rows = {command: outcome(trial, command) for command in given.commands.split(",")}
    Console(width=140).print(shown(rows))


if __name__ == "__main__":
    main()
