"""Figures: drawn without pyplot, the same twice, their numbers beside them."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analyses import figures
from analyses.figures import Drawing, outside_null, run_drawings, save_drawings, write_run_figures
from analyses.report.run_report import verdict_views
from analyses.runs import TargetVerdict, rows_of, tables
from spillover import example_run
from tests.synthetic_run import write_comparison, write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tables.Run:
    folder = write_run(
        tmp_path_factory.mktemp("run"),
        concepts=("safety",),
        seeds=1,
        degenerate=("npo-retain-100-safety-0",),
        not_reached=("npo-retain-1-safety-0",),
    )
    return tables.Run(folder)


@pytest.fixture(scope="module")
def drawn(run: tables.Run) -> tuple[Drawing, ...]:
    return write_run_figures(run)


def test_every_figure_has_a_vector_a_bitmap_and_its_numbers(run, drawn):
    names = {drawing.name for drawing in drawn}
    assert {"overview", "leakage", "dose_response", "outcome", "containment", "cosine"} <= names
    assert {"rotation_angle_degrees", "rotation_gain"} <= names
    for drawing in drawn:
        stem = Path(run.record.folder / "figures" / drawing.name)
        assert stem.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in stem.with_suffix(".svg").read_text("utf-8")
        assert len(pd.read_csv(stem.with_suffix(".csv"))) == len(drawing.data) > 0
        assert drawing.title and drawing.caption


def test_other_processes_save_the_same_files(run: tables.Run, drawn: Any, tmp_path: Path) -> None:
    saved = save_drawings(islice(run_drawings(run), 3), tmp_path, processes=2)
    assert [drawing.name for drawing in saved] == [drawing.name for drawing in drawn[:3]]
    assert len(list(tmp_path.iterdir())) == 9
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (run.record.folder / "figures" / path.name).read_bytes()


@pytest.mark.parametrize("decided", [True, False])
def test_the_figure_and_the_verdicts_of_the_first_screen_agree(
    decided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outcome that an interval does not decide has its question mark in both."""
    monkeypatch.setattr(TargetVerdict, "decided", decided)
    run = example_run()
    badges = {view["badge"] for view in verdict_views(run)}
    drawn = [text.get_text() for axes in figures.overview_figure(run).axes for text in axes.texts]
    assert badges <= set(drawn)
    assert ("complied" if decided else "complied?") in badges


def test_every_recovery_is_within_its_axis():
    run = example_run()
    numbers = ["value", "low", "high"]
    run.__dict__["recovery"] = run.recovery.assign(**(1.5 * run.recovery[numbers]))
    shown = run.recovery[run.recovery["quantity"] == "recovery"]["value"].dropna()
    [axes] = figures.containment_figure(run).axes
    bottom, top = axes.get_ylim()
    assert shown.max() > 1.32  # more than the usual axis holds
    assert bottom < shown.min() <= shown.max() < top


def test_drawing_leaves_no_global_state(run):
    from matplotlib import pyplot

    def settings() -> dict[str, object]:  # the backend is settled by whoever asks first
        return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}

    before, settings_before = pyplot.get_fignums(), settings()
    figure = figures.overview_figure(run)
    assert isinstance(figure, Figure)
    assert pyplot.get_fignums() == before and settings() == settings_before


def test_the_same_tables_give_the_same_picture(run, drawn):
    path = run.record.folder / "figures" / "outcome.svg"
    first = path.read_bytes()
    again = next(d for d in run_drawings(run) if d.name == "outcome")
    with figures.figure_style():
        again.figure.savefig(path, format="svg", metadata={"Date": None})
    assert path.read_bytes() == first


def test_runs_that_lack_something_are_drawn_without_it(tmp_path):
    compared = tables.Run(write_comparison(tmp_path / "compared"))
    titles = {drawing.name: drawing.title for drawing in run_drawings(compared)}
    names = set(titles)
    assert titles["leakage"] == "Loss of refusal by domain"  # there is no forgetting level
    assert "overview" in names and not names & {"dose_response", "containment"}
    bare = write_run(tmp_path / "bare", concepts=("safety",), rotation=False)
    for folder in (bare / "arms").iterdir():
        if folder.name != "base":
            (folder / "DONE").unlink()
    assert [drawing.name for drawing in run_drawings(tables.Run(bare))] == ["overview"]


def test_several_sources_give_a_matrix_in_which_degenerate_ones_are_marked(tmp_path):
    concepts = ("cybersecurity", "safety", "privacy")
    folder = write_run(
        tmp_path, concepts=concepts, weights=(), degenerate=("npo-safety-0",), rotation=False
    )
    built = tables.Run(folder)
    assert "matrix" in {drawing.name for drawing in run_drawings(built)}
    words = [text.get_text() for text in figures.matrix_figure(built).axes[0].texts]
    assert not any("not in the matrix" in word for word in words)
    # Three sources, five others each (one of low base).
    assert sum(word.replace(".", "").isdigit() for word in words) == 3 * 5
    labels = [label.get_text() for label in figures.matrix_figure(built).axes[0].get_yticklabels()]
    assert sum("degenerate" in label for label in labels) == 1
    assert built.decompositions  # arms are not chosen by their success


def test_objectives_have_matrices_of_their_own_in_the_report(tmp_path):
    concepts = ("cybersecurity", "safety", "privacy")
    folder = write_run(tmp_path, concepts=concepts, seeds=2, weights=(), rotation=False)
    for arm in folder.glob("arms/npo-*-1"):
        config = json.loads((arm / "config.json").read_text(encoding="utf-8"))
        (arm / "config.json").write_text(json.dumps(config | {"objective": "rmu"}))
    built = tables.Run(folder)
    found = {each.name: each for each in run_drawings(built) if each.name.startswith("matrix")}
    assert {name: each.title.split(": ")[1] for name, each in found.items()} == {
        "matrix_npo": "NPO",
        "matrix_rmu": "RMU",
    }
    for name, each in found.items():
        seed = name == "matrix_rmu"
        assert set(each.data["arm"]) == {f"npo-{concept}-{seed:d}" for concept in concepts}
        own = rows_of(each.data, arm=f"npo-safety-{seed:d}").set_index("domain")["value"]
        words = [text.get_text() for text in each.figure.axes[0].texts]
        assert f"{own['privacy']:.2f}" in words


def test_a_cell_is_outside_its_null_only_if_the_intervals_do_not_meet():
    table = pd.DataFrame(
        {
            "low": [5.0, 3.0, -9.0, 5.0],
            "high": [9.0, 9.0, -5.0, 9.0],
            "null_low": -4.0,
            "null_high": 4.0,
            "defined": [True, True, True, False],
        }
    )
    assert outside_null(table).tolist() == [True, False, True, False]


def test_a_domain_that_refuses_much_more_is_written_at_the_edge(run: tables.Run) -> None:
    built = tables.Run(run.record.folder)
    leakage = built.leakage.copy()
    place = (leakage["quantity"] == "L_90") & (leakage["domain"] == "bias")
    leakage.loc[place, ["value", "low", "high"]] = [-2.6, -3.0, -2.2]
    built.__dict__["leakage"] = leakage
    panel = figures.leakage_figure(built).axes[0]
    assert any(text.get_text() == "-2.6" for text in panel.texts)
