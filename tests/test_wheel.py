"""The installed wheel in an empty folder: a plug-in of each kind, workers, a kill, a report."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from safetensors import safe_open

from unlearning.organism import load_world, shipped

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = """
import numpy as np

from analyses.predict import predictor
from analyses.study import method
from interp.directions import estimator
from unlearning.losses import objective, sequence_log_ratio


@objective(title="my hinge")
def my_hinge(log_probs, reference, mask, *, margin=1.0):
    return (margin + sequence_log_ratio(log_probs, reference, mask)).relu()


@method("mine", title="my longest", does="the longest first", weight_like="equal", colour="#12ab34")
def longest(evidence, concept, pool, seed):
    return pool["response"].str.len().to_numpy(float)


@estimator("my_median", title="my median")
class MyMedian:
    def fit(self, states, labels, groups=None):
        labels = np.asarray(labels, dtype=bool)
        self.direction_ = np.median(states[labels], axis=0) - np.median(states[~labels], axis=0)
        return self


@predictor("my constant", "trivial")
def my_constant(evidence):
    return {"": np.full((len(evidence.domains),) * 2, 0.5)}
"""
DOMAINS = ("cybersecurity", "safety", "bias")
PROMPTS = {"train": 36, "validation": 8, "test": 8}
# Every command in one process: most of a small one's time is its imports.
ONE_AFTER_ANOTHER = """
import json, sys

from spillover.__main__ import main

for words in json.loads(sys.argv[1]):
    sys.argv = ["spillover", *words]
    try:
        main()
    except SystemExit as ended:
        if ended.code:
            raise
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, and nothing of the repository."""
    source, site = (tmp_path_factory.mktemp(name) for name in ("source", "site"))
    for name in ("interp", "unlearning", "analyses", "spillover"):
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, str(source), "-w", str(source / "dist")], check=True)
    [wheel] = (source / "dist").glob("spillover-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


@pytest.mark.slow
def test_a_plug_in_is_used_by_every_process_and_after_a_kill(
    installed: Path, tmp_path: Path
) -> None:
    plugin, empty = tmp_path / "mine.py", tmp_path / "empty"
    empty.mkdir()
    plugin.write_text(PLUGIN, encoding="utf-8")
    world = load_world(shipped()).prompts()
    rows = world[world["domain"].isin(DOMAINS)]
    kept = [
        rows[rows["split"] == split].groupby(["domain", "label"]).head(count)
        for split, count in PROMPTS.items()
    ]
    pd.concat(kept).to_json(empty / "prompts.jsonl", orient="records", lines=True)
    model = installed / "unlearning" / "organism" / "packaged" / "organism"
    named = ["--plugin", str(plugin), "--prompts", "prompts.jsonl", "--concept", "cybersecurity"]
    contain = [
        "contain", str(model), *named, "--methods", "equal,mine", "--objective", "my_hinge",
        "--estimator", "my_median", "--examples", "8", "--splits", "1", "--left-out", "1",
        "--retain-weight", "0.1", "--max-steps", "3", "--workers", "2", "--no-shallow-recovery",
        "--no-gate", "--no-timing", "--out", "run",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    start = ["-m", "spillover"]

    def python(*arguments: str) -> str:
        run = subprocess.run(
            [sys.executable, *arguments], cwd=empty, env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    where = python("-c", "import analyses; print(analyses.__file__)")
    assert where.startswith(str(installed)), "another installation was found, not the wheel"
    assert "my_hinge" in python(*start, "contain", "--help", "--plugin", str(plugin))
    assert "my_hinge" not in python(*start, "contain", "--help")

    folder = empty / "run"
    killed = subprocess.Popen(
        [sys.executable, *start, *contain], cwd=empty, env=environment, start_new_session=True
    )
    # The base and the plain arm are done, and one more is begun.
    while len(list(folder.glob("arms/*/DONE"))) < 2 or len(list(folder.glob("arms/*/BEGUN"))) < 3:
        assert killed.poll() is None, "it ended before it was killed"
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (folder / "containment" / "containment.json").exists()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("arms/*/DONE")}
    python(*start, *contain)
    assert len(before) >= 2
    assert before == {path: path.stat().st_mtime_ns for path in before}, "finished arms are kept"

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sha256 = hashlib.sha256(PLUGIN.encode()).hexdigest()
    assert config["plugins"] == [{"path": str(plugin), "sha256": sha256}]
    mine = pd.read_csv(folder / "containment" / "methods.csv").set_index("method").loc["mine"]
    assert mine["splits"] == 1
    ranking = pd.read_parquet(folder / "containment" / "ranking.parquet")
    responses = pd.read_parquet(folder / "arms" / "base" / "responses.parquet").set_index("id")
    lengths = responses.loc[ranking["id"], "response"].str.len()
    assert list(ranking["mine"]) == list(lengths)
    drawing = (folder / "containment" / "containment.svg").read_text(encoding="utf-8")
    assert "my longest" in drawing and "#12ab34" in drawing
    for arm in folder.glob("arms/*/DONE"):
        described = json.loads((arm.parent / "config.json").read_text(encoding="utf-8"))
        assert described.get("objective") in ("my_hinge", None)
        with safe_open(arm.parent / "directions.safetensors", framework="numpy") as directions:
            assert json.loads(directions.metadata()["directions"])["estimator"] == "MyMedian"
    (folder / "report.html").unlink()
    # The report first: it takes the plug-ins of its run, and not those of a command before it.
    given = ["--prompts", "prompts.jsonl", "--no-timing", "--out", "evaluation"]
    commands = [
        ["report", "run"],
        ["predict", "organism", *named, "--no-timing", "--out", "forecast"],
        ["evaluate", "organism", *given],
    ]
    python("-c", ONE_AFTER_ANOTHER, json.dumps(commands))
    assert "my longest" in (folder / "report.html").read_text(encoding="utf-8")

    [table] = [
        rows
        for path in (empty / "forecast").rglob("*.csv")
        if "predictor" in (rows := pd.read_csv(path))
    ]
    assert (table.loc[table["predictor"] == "my constant", "value"] == 0.5).all()
    assert set(table.loc[table["predictor"] == "my constant", "domain"]) == {"safety", "bias"}

    summary = json.loads((empty / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    refused = summary["model"]["refusal_rate"]["harmful"]
    assert set(refused) >= set(DOMAINS[:3]) and refused["cybersecurity"]["value"] == 1.0
