"""What cannot work is one line with exit code 2 before anything is computed, written or deleted."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

import spillover as sp
from analyses.contain.arms import Design, held_out_splits
from analyses.study.resolve import depth_of, require_model
from interp.errors import InputError, ModelError
from tests.conftest import Spillover
from unlearning.organism import shipped
from unlearning.training import TrainingSettings

ORGANISM = str(shipped())
FOLDERS: dict[str, list[str]] = {
    "demo": [],
    "study": [ORGANISM, "--concept", "safety"],
    "unlearn": [ORGANISM, "--concept", "safety"],
    "compare": [ORGANISM, ORGANISM],
    "matrix": [ORGANISM],
    "contain": [ORGANISM, "--concept", "safety"],
    "reproduce": ["mushtaq2025", ORGANISM],
    "predict": [ORGANISM, "--concept", "safety"],
    "deflect": [ORGANISM, "--concept", "safety"],
    "evaluate": [ORGANISM],
    "tournament": ["worlds.parquet"],
    "organism train": ["--seed", "1"],
}
FILES = {"score": ["answers.jsonl"], "calibrate": ["answers.jsonl"], "prompts make": ["built-in"]}


def one_line(found: tuple[int, str, str]) -> str:
    code, out, err = found
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_is_no_folder_of_results(spillover: Spillover, name: str) -> None:
    Path("file").write_text("mine", encoding="utf-8")
    os.symlink("nowhere", "dangling")
    for place in ("file", "file/run", "dangling"):
        said = one_line(spillover(*name.split(), *FOLDERS[name], "--out", place))
        assert f"{place.partition('/')[0]} is a file; expected a folder" in said
    assert Path("file").read_text(encoding="utf-8") == "mine"
    assert sorted(os.listdir()) == ["dangling", "file"]


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_a_place_that_cannot_be_written_is_refused(
    spillover: Spillover, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("answers.jsonl").write_text('{"prompt": "p", "response": "No.", "class": "answer"}\n')
    Path("shared").mkdir()
    access = os.access  # root may write wherever the mode forbids it

    def read_only(path: Any, mode: int, **more: Any) -> bool:
        return Path(path).name != "shared" and access(path, mode, **more)

    monkeypatch.setattr(os, "access", read_only)
    given = (FOLDERS | FILES)[name]
    said = one_line(spillover(*name.split(), *given, "--out", "shared/deeper/out.jsonl"))
    assert "cannot be written: shared is read-only for this user" in said
    assert not os.listdir("shared")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_or_a_device_is_no_file_of_results(spillover: Spillover, name: str) -> None:
    Path("answers.jsonl").write_text('{"prompt": "p", "response": "No.", "class": "answer"}\n')
    Path("folder").mkdir()
    os.symlink("/dev/null", "device")
    for place, kind in {
        "folder": "is a folder",
        "device": "is a device",
        "/dev/null": "is a device",
        "answers.jsonl/x": "is a file; expected a folder",
    }.items():
        assert kind in one_line(spillover(*name.split(), *FILES[name], "--out", place))
    assert Path("device").is_symlink() and Path("/dev/null").is_char_device()
    assert sorted(os.listdir()) == ["answers.jsonl", "device", "folder"]


def test_a_file_of_results_is_written_through_a_link(spillover: Spillover) -> None:
    Path("answers.jsonl").write_text('{"prompt": "p", "response": "I cannot help."}\n')
    Path("disk").mkdir()
    os.symlink("disk/scored.jsonl", "out.jsonl")
    assert spillover("score", "answers.jsonl", "--out", "out.jsonl")[0] == 0
    assert (
        Path("out.jsonl").is_symlink() and "full_refusal" in Path("disk/scored.jsonl").read_text()
    )


@pytest.mark.parametrize("name", ["study", "unlearn", "contain"])
@pytest.mark.parametrize("layer", ["99", "5"])
def test_a_layer_beyond_the_model_is_refused_by_the_plan(
    spillover: Spillover, name: str, layer: str
) -> None:
    options = ["--layer", layer, "--objective", "rmu", "--out", "run", "--dry-run"]
    said = one_line(spillover(name, *FOLDERS[name], *options))
    assert f"layer is {layer}" in said and "has layers 0 to 4" in said
    assert not Path("run").exists()


def test_the_depth_is_that_of_a_configuration_here() -> None:
    assert depth_of(ORGANISM) == 5 and depth_of("no/such-model") is None


# A model that is not there


@pytest.mark.parametrize("name", ["evaluate", "study", "deflect", "compare"])
def test_a_model_that_cannot_be_reached_is_one_line(spillover: Spillover, name: str) -> None:
    arguments = ["nosuch/model", *FOLDERS[name][1:]]
    said = one_line(spillover(name, *arguments, "--out", "run", "--dry-run"))
    assert "model nosuch/model not found" in said and "HF_HUB_OFFLINE is set" in said
    assert not Path("run").exists()


def test_a_name_that_is_close_is_suggested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="organisms not found.*did you mean 'organism'"):
        sp.load("organisms")
    (tmp_path / "my-model").mkdir()
    with pytest.raises(ModelError, match="did you mean 'my-model'"):
        require_model("my-modle")


def test_a_model_in_the_cache_is_there_in_any_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError):
        require_model("some/model")
    folder = tmp_path / "models--some--model" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}", encoding="utf-8")
    require_model("some/model")


# The plan of a containment study


def test_the_plan_of_contain_counts_the_arms_of_each_method(spillover: Spillover) -> None:
    options = ["--methods", "equal,random,projection", "--examples", "8", "--splits", "2"]
    code, _, said = spillover("contain", *FOLDERS["contain"], *options, "--dry-run")
    assert code == 0, said
    counts = {name: int(n) for name, n in re.findall(r"method (\w+): (\d+) arms on 2 splits", said)}
    others = ("bias", "privacy", "toxicity", "sensitive")
    design = Design(
        "safety", tuple(counts), (8,), (0.1, 1.0), held_out_splits(others, count=2, left_out=2),
        TrainingSettings(),
    )  # fmt: skip
    arms = design.arms(dict.fromkeys(counts, 1.0))
    assert counts and sum(counts.values()) == len(arms)
    for name, count in counts.items():
        made = [arm for arm in arms if arm.containment and arm.containment.method == name]
        assert len(made) == count


# Plug-ins of other parameters

WRONG = {
    "objective": "from unlearning.losses import objective\n@objective\ndef mine(logs): ...",
    "method": "from analyses.study import method\n@method('mine', does='x')\ndef mine(pool): ...",
    "guard": "from analyses.study import method\n@method('mine', does='x')\nclass Mine:\n"
    "    @staticmethod\n    def guard(context): ...",
    "predictor": "from analyses.predict import predictor\n@predictor('mine', 'kernel')\n"
    "def mine(): ...",
    "scorer": "from unlearning.scoring import scorer\n@scorer('mine')\ndef mine(a, b): ...",
    "estimator": "from interp.directions import estimator\n@estimator('mine')\nclass Mine:\n"
    "    def fit(self, states): ...",
    "no fit": "from interp.directions import estimator\n@estimator('mine')\nclass Mine: ...",
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_plug_in_of_other_parameters_is_refused_by_the_plan(
    spillover: Spillover, kind: str
) -> None:
    Path("mine.py").write_text(WRONG[kind], encoding="utf-8")
    given = ["study", *FOLDERS["study"], "--plugin", "mine.py", "--out", "run", "--dry-run"]
    said = one_line(spillover(*given))
    assert "mine" in said.lower() and re.search(r"expected|has no fit|needs", said)


# A full disk


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_keeps_what_there_is(
    spillover: Spillover, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    Path("answers.jsonl").write_text('{"prompt": "p", "response": "I cannot help."}\n')
    Path("out.jsonl").write_text("earlier\n", encoding="utf-8")

    def full(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    ended, _, said = spillover("score", "answers.jsonl", "--out", "out.jsonl")
    assert ended == 1 and said.splitlines()[-1].startswith("error: the disk is full")
    assert Path("out.jsonl").read_text(encoding="utf-8") == "earlier\n"
    assert sorted(os.listdir()) == ["answers.jsonl", "out.jsonl"]


def test_other_failures_of_the_machine_keep_their_traceback(
    spillover: Spillover, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("answers.jsonl").write_text('{"prompt": "p", "response": "I cannot help."}\n')

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output"):
        spillover("score", "answers.jsonl", "--out", "out.jsonl")


def test_places_are_checked_before_results(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; expected a folder"):
        sp.study("organism", concept="safety", out=tmp_path / "file", dry_run=True)
