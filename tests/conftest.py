"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from interp import plugins
from tests.checkpoints import FAMILIES, save_checkpoint

if TYPE_CHECKING:
    from interp.model import LanguageModel

#: Runs the command line: arguments in; exit code, standard output and standard error out.
Spillover = Callable[..., tuple[int, str, str]]

# Before anything of Hugging Face is imported: no test asks the hub for anything.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before torch is: several processes of several threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test sees a GPU, except those of tests/device: the others are the same on every machine.
if "SPILLOVER_DEVICE_TESTS" not in os.environ:
    os.environ.setdefault("SPILLOVER_GPUS", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Nothing goes into the user's caches, and nothing comes from there.
_CACHE = tempfile.TemporaryDirectory(prefix="spillover-tests-")
os.environ["SPILLOVER_CACHE"] = _CACHE.name
# Processes that tests start find compiled code; without it, each compiles all of it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Reading answers with a language model takes a second for five of them; its own tests ask for it.
os.environ["SPILLOVER_READER"] = "none"
# UMAP of a few dozen points takes a second without its compiler, whose start takes twenty.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")
# How long an example takes says how busy the machine is, and nothing about the code.
hypothesis.settings.register_profile("spillover", deadline=None)
hypothesis.settings.load_profile("spillover")


def pytest_collection_finish() -> None:
    """Every training run ends with a full garbage collection: it need not look at the imports."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Folder of public prompts and completions; tests that want it skip where there is none."""
    folder = os.environ.get("SPILLOVER_TEST_DATA")
    if not folder:
        pytest.skip("SPILLOVER_TEST_DATA names no folder of public prompts")
    return Path(folder)


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``checkpoint_of("qwen2")``: folder of that family's float32 checkpoint, built once."""
    built: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in built:
            built[family] = save_checkpoint(family, tmp_path_factory.mktemp(family))
        return built[family]

    return folder


@pytest.fixture(scope="module")
def llama(checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    from interp.model import LanguageModel

    return LanguageModel.load(checkpoint_of("llama"))


@pytest.fixture(scope="session", params=FAMILIES)
def checkpoint(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> Path:
    """Folder of a checkpoint; a test that asks for it runs once for every family."""
    return checkpoint_of(request.param)


@pytest.fixture(scope="session")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prompts file: a small part of the shipped organism's own world, its seven domains."""
    from unlearning.organism import load_world, shipped

    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    table = load_world(shipped()).prompts(train=40, validation=8, test=8)
    table.to_json(path, orient="records", lines=True)
    return path


def leave_out_report(patched: pytest.MonkeyPatch) -> None:
    """Figures and the report's gate take most of a small study's time, and have tests."""
    from analyses.report import run_report
    from analyses.study import engine

    patched.setattr(run_report, "write_report", lambda folder, **_: folder / "report.html")
    patched.setattr(engine, "write_gate", lambda *_: None)


def leave_out_pictures(patched: pytest.MonkeyPatch) -> None:
    """Figures are made, and saved as empty pictures: drawing them takes longer than all else."""
    from tests.quick import Figure, save_empty

    patched.setattr(Figure, "savefig", save_empty)


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this test's commands write has every figure, but empty."""
    leave_out_pictures(monkeypatch)


@pytest.fixture(scope="session", autouse=True)
def _plans_of_a_moment() -> Iterator[None]:
    """Plans measure the machine's speed on few rows: how good that is has tests of its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("analyses.costs.rates.LONG_ENOUGH", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """No test waits for the disk. A test of what is synced patches ``os.fsync`` itself."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", lambda _handle: None)
        yield


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies of this test end before their figures and report."""
    leave_out_report(monkeypatch)


@pytest.fixture
def spillover(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Spillover:
    """Runs the command line in an empty folder: exit code, standard output, standard error."""
    from analyses.cli import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["spillover", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of many slow tests first, then of many tests: processes that share files end together.

    A file stays in one process (``--dist loadfile``), so what it makes once is made once.
    """
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (-slow[item.path], -tests[item.path], item.path))


@pytest.fixture(autouse=True)
def _no_plugins_of_other_tests() -> Iterator[None]:
    """Plug-ins are of a process; here, of a test."""
    yield
    plugins._NAMED.clear()
    plugins._LOADED.clear()
