"""``spillover unlearn``: one arm, and the same command goes on where a kill left it."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import pandas as pd
import pytest
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from analyses.cli import main
from analyses.runs import matched_step
from interp.errors import InputError
from interp.model import LanguageModel
from tests.conftest import leave_out_pictures
from unlearning.organism import load_world, shipped
from unlearning.training import Bounds, newest_complete

STEPS = 8
ARM = "bias-npo-retain1-seed0"


class Ended(NamedTuple):
    exit_code: int
    error: str


def run_cli(arguments: list[str]) -> Ended:
    """The command line, in this process."""
    error = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["spillover", *arguments]),
        redirect_stderr(error),
        pytest.MonkeyPatch.context() as patched,
    ):
        leave_out_pictures(patched)
        try:
            main()
        except SystemExit as stopped:
            return Ended(int(stopped.code or 0), error.getvalue())
    return Ended(0, error.getvalue())


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains of the world and few prompts of each, so that a run is short."""
    table = load_world(shipped()).prompts(train=40, validation=12, test=8)
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    chosen = table[table["domain"].isin(["bias", "safety", "privacy", "general"])]
    chosen.to_json(path, orient="records", lines=True)
    return path


def command(out: Path, prompts: Path, *options: str) -> list[str]:
    """A contained arm with multipliers, a checkpoint after every step."""
    return [
        "unlearn", str(shipped()), "--concept", "bias", "--retain", "safety,privacy",
        "--prompts", str(prompts), "--adaptive", "--max-steps", str(STEPS),
        "--checkpoint-every", "1", "--no-gate", "--no-timing", "--out", str(out),
        *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    assert run_cli(command(out, prompts)).exit_code == 0
    return out / "arms" / ARM


def started(out: Path, prompts: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "spillover", *command(out, prompts)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_ends_with_the_very_same_weights(
    sent: signal.Signals, whole: Path, prompts: Path, tmp_path: Path
) -> None:
    arm = tmp_path / "arms" / ARM
    shutil.copytree(whole.parent / "base", arm.parent / "base")  # it is the arm that is killed
    process = started(tmp_path, prompts)
    deadline = time.monotonic() + 240
    while newest_complete(arm / "training") is None and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(sent)
    assert process.wait(timeout=120) != 0
    assert not (arm / "DONE").exists()
    left = newest_complete(arm / "training")
    assert left is not None

    assert run_cli(command(tmp_path, prompts)).exit_code == 0
    (weights,) = (whole / "model").glob("*.safetensors")
    resumed, undisturbed = load_file(arm / "model" / weights.name), load_file(weights)
    assert resumed.keys() == undisturbed.keys()
    assert all((resumed[name] == value).all() for name, value in undisturbed.items())
    for table in ("scores", "log"):
        found, wanted = (pd.read_parquet(f / f"{table}.parquet") for f in (arm, whole))
        pd.testing.assert_frame_equal(found, wanted)
    assert not (arm / "training").exists()  # a finished arm keeps none


def test_the_curve_holds_every_domain_and_benign_prompts(whole: Path) -> None:
    scores = pd.read_parquet(whole / "scores.parquet")
    steps = scores.groupby("step").agg(domains=("domain", "nunique"), labels=("label", "nunique"))
    assert list(steps.index) == list(range(STEPS + 1))
    assert (steps["domains"] == 4).all() and (steps["labels"] == 2).all()
    assert scores[["p_R", "p_C", "margin"]].notna().all().all()
    log = pd.read_parquet(whole / "log.parquet")
    assert {"loss_forget", "loss_retain_safety", "weight_privacy", "log_ratio"} <= set(log.columns)
    assert abs(log["log_ratio"].iloc[0]) < 1e-4


def test_a_tracker_s_log_outlives_the_checkpoints(prompts: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = [
        "unlearn", str(shipped()), "--concept", "bias", "--prompts", str(prompts),
        "--max-steps", "2", "--report-to", "tensorboard", "--no-gate", "--out", str(tmp_path),
    ]  # fmt: skip
    assert run_cli(options).exit_code == 0
    (events,) = (tmp_path / "arms" / "bias-npo-seed0" / "training").rglob("events.*")
    written = EventAccumulator(str(events)).Reload()
    tags = written.Tags()["scalars"]
    assert {"train/loss_forget", "train/log_ratio"} <= set(tags)
    assert [event.step for event in written.Scalars("train/loss_forget")] == [1, 2]
    assert not list(tmp_path.rglob("checkpoint-*"))


def test_what_is_saved_loads_as_a_plain_model(whole: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(whole / "model")
    assert model.config.model_type == "qwen2"
    assert LanguageModel.load(whole / "model").n_layers == model.config.num_hidden_layers


def test_bounds_end_the_run_and_keep_the_best_step_within_them(
    prompts: Path, tmp_path: Path
) -> None:
    options = [
        "unlearn", str(shipped()), "--concept", "bias", "--max-steps", "30",
        "--prompts", str(prompts), "--leak-bound", "0.3", "--no-gate", "--out", str(tmp_path),
    ]  # fmt: skip
    assert run_cli(options).exit_code == 0
    scores = pd.read_parquet(tmp_path / "arms" / "bias-npo-seed0" / "scores.parquet")
    rows = scores[(scores["label"] == "harmful") & (scores["split"] == "validation")]
    rate = rows.pivot_table(index="step", columns="domain", values="p_R")
    lost = (1 - rate / rate.iloc[0]).drop(columns="bias").max(axis=1)
    kept = matched_step(scores)
    # The step after the kept one is the first beyond the bound, and the last of the run.
    assert lost[kept] <= 0.3 < lost[kept + 1]
    assert kept + 1 == scores["step"].max() < 30


@pytest.mark.slow
def test_an_objective_whose_code_changed_is_not_taken_for_done(
    prompts: Path, tmp_path: Path
) -> None:
    """Its sign is flipped: results of the old code are neither reused nor replaced."""
    out, own, few = tmp_path / "out", tmp_path / "own.py", tmp_path / "few.jsonl"
    table = pd.read_json(prompts, lines=True)
    table[table["domain"].isin(["bias", "safety"])].to_json(few, orient="records", lines=True)
    options = [
        "unlearn", str(shipped()), "--concept", "bias", "--prompts", str(few),
        "--max-steps", "1", "--objective", "of_one_s_own", "--objective-file", str(own),
        "--no-gate", "--out", str(out),
    ]  # fmt: skip

    def run(sign: str) -> Ended:
        own.write_text(
            "from unlearning.losses.registry import objective\n\n\n@objective\n"
            "def of_one_s_own(log_probs, mask):\n"
            f"    return {sign}(log_probs * mask).sum(-1)\n",
            encoding="utf-8",
        )
        return run_cli(options)

    first = run("")
    assert first.exit_code == 0, first.error
    [weights] = (out / "arms").glob("*of_one_s_own*/*/*.safetensors")
    before = weights.read_bytes()
    refused = run("-")
    assert refused.exit_code == 2 and "another plug-in" in refused.error
    assert weights.read_bytes() == before


def test_utility_is_what_benign_prompts_keep_of_their_answers() -> None:
    rows = {"split": ["validation"] * 2, "label": ["harmful", "benign"], "domain": ["bias"] * 2}
    base = pd.DataFrame({**rows, "p_R": [0.9, 0.0], "p_C": [0.1, 0.8]})
    after = base.assign(p_C=[0.1, 0.6])
    assert Bounds(utility=0.3).hold(base, after, "safety")
    assert not Bounds(utility=0.2).hold(base, after, "safety")
    assert Bounds(utility=0.2).hold(base.assign(p_C=0.0), after.assign(p_C=0.0), "safety")
    assert Bounds(leak=0.5).hold(base, after.assign(p_R=[0.5, 0.0]), "safety")
    assert not Bounds(leak=0.3).hold(base, after.assign(p_R=[0.5, 0.0]), "safety")
    assert Bounds(leak=0.3).hold(base, after.assign(p_R=[0.5, 0.0]), "bias")
    assert not Bounds()


def test_options_that_cannot_go_together_are_refused(prompts: Path, tmp_path: Path) -> None:
    two = run_cli([*command(tmp_path, prompts), "--retain-weight", "1", "--retain-weight", "10"])
    assert two.exit_code == 2 and "one arm" in two.error
    unknown = run_cli([*command(tmp_path, prompts), "--option", "gamma=1"])
    assert unknown.exit_code == 2 and "npo has no option gamma" in unknown.error
    alone = run_cli([
        "unlearn", str(shipped()), "--concept", "bias", "--objective", "grad_diff",
        "--prompts", str(prompts), "--out", str(tmp_path / "alone"),
    ])  # fmt: skip
    assert alone.exit_code == 2 and "retain set" in alone.error


def test_pairs_are_asked_for_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="compliance"):
        from unlearning.deflections import with_preferred

        with_preferred(pd.DataFrame({"id": ["a"], "prompt": ["p"]}), "dpo")
