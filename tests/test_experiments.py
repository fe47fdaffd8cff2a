"""The commands that remake tables of the docs: each is listed, and wrong input gives one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analyses.cli import main
from experiments.__main__ import app

NAMES = ("organisms", "objectives", "containment", "scorers", "mutants", "architectures", "people")


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_has_a_help(name: str) -> None:
    assert name in CliRunner().invoke(app, ["--help"]).output
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0 and "--out" in shown.output


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--seeds", "one"), "--seeds one: expected numbers separated by commas"),
        (("--seeds", "1", "--methods", "prayer"), "no containment method 'prayer'"),
        (("--seeds", "1", "--examples", "few"), "expected numbers"),
    ],
)
def test_wrong_input_gives_one_line(
    more: tuple[str, ...],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "worlds"
    monkeypatch.setattr(sys, "argv", ["experiments", "containment", "--out", str(out), *more])
    with pytest.raises(SystemExit) as stopped:
        main(app)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and expected in said and said.count("\n") == 1
    assert not out.exists(), "nothing is made before the options are checked"
