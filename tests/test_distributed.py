"""Two processes take the steps that one would take: gradients, weights and multipliers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.distributed_step import RUNS, SHARDED, run, sharded_step
from unlearning.organism import load_world, shipped

Checkpoints = Callable[[str], Path]

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[1]


ASKED: dict[str, Any] = {
    "concept": "safety", "retain": "privacy", "device": "cpu", "max_steps": 4, "batch_size": 8,
    "checkpoint_every": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def two_domains(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompts file: of the organism's world, the unlearned and the retained domain."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    table = load_world(shipped()).prompts(train=36, validation=8, test=8)
    table = table[table["domain"].isin([ASKED["concept"], ASKED["retain"]])]
    table.to_json(path, orient="records", lines=True)
    return path


@pytest.fixture(scope="module")
def together(
    checkpoint_of: Checkpoints, two_domains: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folder of what each of two processes found, for every run; launched once, as a user does."""
    folder = tmp_path_factory.mktemp("together")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in ASKED.items()]
    launched = subprocess.run(
        [
            # --cpu would start one process or ask for MPI; it is the model's device that decides.
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
            *("--dynamo_backend", "no", "--main_process_port", "0"),
            *("-m", "tests.distributed_step", str(checkpoint_of("qwen2")), str(folder)),
            *(
                "unlearn",
                "organism",
                *options,
                f"--prompts={two_domains}",
                f"--out={folder / 'arm'}",
                "--no-gate",
                "--no-timing",
            ),
        ],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert launched.returncode == 0, launched.stderr[-4000:]
    (folder / "printed.txt").write_text(launched.stdout)
    return folder


def found_by(together: Path, name: str) -> list[dict[str, Any]]:
    return [torch.load(together / f"{name}-{rank}.pt", weights_only=False) for rank in (0, 1)]


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_as_one(
    name: str,
    together: Path,
    checkpoint_of: Checkpoints,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    alone = run(name, checkpoint_of("qwen2"), tmp_path)
    assert "DistributedDataParallel" not in alone["wrappers"]
    processes = found_by(together, name)
    for process in processes:
        assert process["wrappers"] == {"DistributedDataParallel"}
        # The first gradient is taken at the very same weights.
        differences = {
            "gradient": relative_difference(process["gradients"][0], alone["gradients"][0]),
            "weights": relative_difference(process["weights"], alone["weights"]),
        }
        for what, difference in differences.items():
            record_property(what, difference)
            assert difference < 1e-5, what
        assert process["log"].keys() == alone["log"].keys()
        for column, values in alone["log"].items():
            assert process["log"][column] == pytest.approx(values, rel=1e-3, abs=1e-4, nan_ok=True)
    first, second = processes
    assert torch.equal(first["weights"], second["weights"])
    for column in first["log"]:
        if column.startswith("weight_"):
            assert first["log"][column] == second["log"][column]


def test_the_multipliers_of_two_processes_move(together: Path) -> None:
    log = found_by(together, "adaptive")[0]["log"]
    moved = [values for column, values in log.items() if column.startswith("weight_")]
    assert len(moved) == 4
    assert any(values[0] != values[-1] for values in moved)


@pytest.mark.parametrize("name", SHARDED)
def test_a_sharded_model_has_the_gradient_of_a_whole_one(
    name: str,
    together: Path,
    checkpoint_of: Checkpoints,
    record_property: Callable[[str, object], None],
) -> None:
    alone = sharded_step(name, checkpoint_of("qwen2"))
    assert not alone["wrappers"] and not alone["is_sharded"]
    for process in found_by(together, name):
        assert process["is_sharded"]
        assert all(wrapper.startswith("FSDP") for wrapper in process["wrappers"])
        assert process["wrappers"]
        difference = relative_difference(process["gradients"], alone["gradients"])
        record_property("gradient", difference)
        assert difference < 1e-5


def test_the_command_line_trains_an_arm_in_two_processes(
    together: Path, two_domains: Path, tmp_path: Path, without_report: None
) -> None:
    """The launched command has the run's files and the weights of the same command alone."""
    from safetensors.torch import load_file

    from analyses.study.command import unlearn

    assert (together / "printed.txt").read_text().count("report.html") == 1
    unlearn("organism", out=tmp_path, prompts=two_domains, timing=False, **ASKED)
    kept = sorted(tmp_path.glob("arms/*/model/*.safetensors"))
    assert kept
    for path in kept:
        alone = load_file(path)
        both = load_file(together / "arm" / path.relative_to(tmp_path))
        assert both.keys() == alone.keys()
        found, wanted = (torch.cat([one[n].flatten() for n in alone]) for one in (both, alone))
        assert relative_difference(found, wanted) < 1e-6
