"""The commands that remake tables of the docs: each is listed, and wrong input gives one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from analyses.cli import main
from experiments.__main__ import app
from experiments.organisms import (
    REPORTED,
    TUNING,
    arms_of,
    base_numbers,
    leakage_cells,
    measure_organisms,
    organism_table,
    planned,
    rows_of,
    write_organisms,
)
from interp.errors import InputError
from interp.store import read_json, read_table, write_json, write_table
from spillover import example_run
from unlearning.organism import recipe_of, shipped

ORGANISMS = Path(__file__).parents[1] / "docs" / "gallery" / "rows" / "organisms"
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


def test_an_arm_without_a_result_counts_as_failed(tmp_path: Path) -> None:
    run, manifest = example_run(), planned([106], "ungated", 2)
    table = organism_table(
        rows_of(run, 106),
        arms_of(run, 106),
        {"106": {"passed": False, "line": "not passed"}},
        manifest,
    )
    [world] = table["worlds"]
    found = {name for name, said in world["outcomes"].items() if said != "missing"}
    assert found == {"cybersecurity-npo-seed0", "safety-npo-seed0"} < set(manifest["arms"])
    assert table["forgotten"] == "2 of 14 arms" and world["forgotten"] == pytest.approx(2 / 14)
    assert table["frozen"] == recipe_of("ungated").digest
    none = organism_table(rows_of(run, 106), arms_of(run, 106)[:0], {"106": {"line": ""}}, manifest)
    assert none["forgotten"] == "0 of 14 arms" and none["gates_passed"] == 0
    assert np.isnan([table["reliability_min"], none["reliability_min"]]).all()


def test_the_reported_organisms_are_those_of_the_frozen_recipe() -> None:
    manifest = read_json(ORGANISMS / "manifest.json")
    assert manifest == planned(REPORTED, "gated", 2)
    assert not set(REPORTED) & set(TUNING)
    facts = read_json(shipped() / "organism.json")
    assert (facts["world"]["seed"], facts["recipe"]) == (REPORTED[0], manifest["frozen"])


@pytest.mark.slow
def test_the_table_of_organisms_is_made_from_its_rows(tmp_path: Path) -> None:
    """Of one world, with an arm whose result is lost."""
    folder = Path(shutil.copytree(ORGANISMS, tmp_path / "rows"))
    text = (folder / "organisms.json").read_text(encoding="utf-8")
    held = json.loads(text, parse_float=lambda number: pytest.approx(float(number)))["worlds"][0]
    write_json(folder / "manifest.json", planned(REPORTED[:1], "gated", 2))
    assert CliRunner().invoke(app, ["organisms", "--out", str(folder), "--rows"]).exit_code == 0
    assert read_json(folder / "organisms.json")["worlds"] == [held]
    arms = read_table(folder / "arms.parquet")
    write_table(folder / "arms.parquet", arms[arms["arm"] != "safety-npo-seed0"])
    [world] = write_organisms(folder)["worlds"]
    assert world["outcomes"] == held["outcomes"] | {"safety-npo-seed0": "missing"}
    assert world["forgotten"] == 13 / 14


def test_a_manifest_is_not_replaced_by_another(tmp_path: Path) -> None:
    write_json(tmp_path / "manifest.json", planned([1], "ungated", 2))
    with pytest.raises(InputError, match="another recipe"):
        measure_organisms([1], tmp_path, recipe="gated")


def test_the_cells_of_organisms_are_those_of_their_runs() -> None:
    run = example_run()
    [safety] = [arm for arm in run.record.arms if arm.name == "safety-npo-seed0"]
    arms = arms_of(run, 106).query("arm == 'safety-npo-seed0'")
    cells = leakage_cells(rows_of(run, 106), arms).set_index("domain")
    at_90 = run.leakage.query(f"quantity == 'L_90' and arm == '{safety.name}'")
    wanted = at_90.set_index("domain")["value"].drop("safety")
    assert cells["L_90"].to_dict() == pytest.approx(wanted.to_dict(), abs=1e-6)
    base = base_numbers(rows_of(run, 106).query("arm == 'base'"))
    rates = run.behaviour.query("arm == 'base' and quantity == 'refusal_rate'")
    assert base["refusal_min"] == rates.query("label == 'harmful'")["value"].min()
