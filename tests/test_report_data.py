"""What the page's script gets: the tables' numbers, and text that no parser takes for markup."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spillover as sp
from analyses.report import comparison
from analyses.report.data import as_json_text
from analyses.report.data.embedding import coded, rounded
from analyses.report.data.maps import Axis, cells_of, cosine_heatmap, leakage_heatmap
from analyses.report.data.prompt_table import merged_prompts, prompt_table
from analyses.runs import Run
from interp.errors import InputError
from interp.store import read_json, write_json
from tests.synthetic_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(write_run(tmp_path_factory.mktemp("a") / "first", concepts=("safety",), weights=()))


@given(st.text() | st.lists(st.sampled_from(["</script>", "<!--", "]]>", "&lt;", "\u2028", "é"])))
def test_no_text_ends_the_element_that_holds_the_data(value: Any) -> None:
    text = as_json_text({"said": value})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"said": value}


def test_cells_follow_the_axes_and_name_what_is_missing() -> None:
    axes = [Axis("layer", "layer", [0, 3], ["0", "3"], True), Axis("domain", "d", ["b", "a"], "ba")]
    rows = [(3, "a", 0.123456, 9, None), (0, "b", -0.5, 9, None), (0, "a", np.nan, 9, "low base")]
    table = pd.DataFrame(rows, columns=["layer", "domain", "value", "n", "reason"])
    table = table.assign(low=table["value"] - 1, high=table["value"] + 1, clear=True)
    cells = cells_of(table.sample(frac=1, random_state=0), axes, 4, otherwise="not made")
    assert cells["value"] == [-0.5, None, None, 0.1235]
    assert cells["low"] == [-1.5, None, None, -0.8765]
    why = [cells["reason"]["names"][code] for code in cells["reason"]["codes"]]
    assert why == ["", "low base", "not made", ""]
    assert cells["n"] == [9, 9, None, 9] and cells["clear"] == [1, 1, 0, 1]


def test_numbers_are_those_that_the_page_prints() -> None:
    assert rounded([0.12345678, float("nan"), float("inf")], 4) == [0.1235, None, None]
    assert str(rounded([-0.00001], 4)[0]) == "0.0"  # a zero has no sign
    assert coded(["b", "a", "b"]) == {"names": ["b", "a"], "codes": [0, 1, 0]}


def test_maps_hold_every_value_of_their_tables(run: Run) -> None:
    found = cosine_heatmap(run)
    assert found is not None
    sizes = [len(axis["keys"]) for axis in found["axes"]]
    values = np.array(found["cells"]["value"], dtype=float).reshape(sizes)
    layers, domains = found["axes"][0]["keys"], found["axes"][1]["keys"]
    for row in run.cosine.itertuples():
        place = layers.index(str(row.layer)), domains.index(row.domain_a)
        assert values[(*place, domains.index(row.domain_b))] == round(row.value, 4)
    leakage = leakage_heatmap(run)
    assert leakage is not None and leakage["axes"][0]["keys"][0] == "L_90"
    known = sum(value is not None for value in leakage["cells"]["value"])
    counted = (
        run.leakage["quantity"].isin(leakage["axes"][0]["keys"]) & run.leakage["value"].notna()
    )
    assert known == counted.sum()


def test_a_cell_without_an_interval_is_not_said_to_contain_0(run: Run) -> None:
    bare = run.leakage.assign(low=np.nan, high=np.nan)
    for table, clear in ((bare, {1}), (bare.assign(low=-1.0, high=1.0), {0})):
        other = Run(run.record)
        vars(other)["leakage"] = table  # in place of the cached one
        found = leakage_heatmap(other)
        assert found is not None
        cells = found["cells"]
        of_known = zip(cells["value"], cells["clear"], strict=True)
        assert {flag for value, flag in of_known if value is not None} == clear


def test_the_prompts_are_those_that_were_scored(run: Run) -> None:
    table = prompt_table(run)
    base = run.record.base.last
    assert len(table["prompt"]) == base["prompt_id"].nunique()
    texts = pd.read_parquet(run.record.folder / "prompts.parquet").set_index("id")["prompt"]
    assert table["prompt"][0] == texts[base["prompt_id"].iloc[0]]
    (after,) = table["after"].values()
    arm = run.record.arms[0].last.set_index("prompt_id")
    assert after["log_odds"][0] == round(arm["margin"][base["prompt_id"].iloc[0]], 2)
    assert "completion" not in after


def test_arms_of_two_runs_keep_their_prompts(run: Run) -> None:
    """Whatever the order in which the second run scored them."""
    (arm,) = run.record.arms
    shuffled = replace(arm, scores=arm.scores.sample(frac=1, random_state=0))
    other = Run(replace(run.record, arms=(shuffled,)))
    merged = merged_prompts((run, other), ("a", "b"))
    first, second = merged["after"].values()
    assert first == second and merged["arms"][1]["label"] == "b: Safety: NPO"


def test_only_runs_of_one_model_on_the_same_prompts_are_compared(run: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run.record.folder, tmp_path / "second"))
    comparison.require_comparable(run, Run(folder))
    manifest = read_json(folder / "manifest.json")
    write_json(folder / "manifest.json", manifest | {"hashes": {"model": "1" * 64}})
    with pytest.raises(InputError, match="different base models"):
        comparison.require_comparable(run, Run(folder))
    write_json(folder / "manifest.json", manifest)
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", config | {"scorer": "other"})
    with pytest.raises(InputError, match="score answers differently"):
        comparison.require_comparable(run, Run(folder))
    write_json(folder / "config.json", config)
    first = Path(shutil.copytree(run.record.folder, tmp_path / "first"))
    formats = [{"before": "<|user|>", "after": "<|end|>"}, {"before": "Be kind.", "thoughts": []}]
    for place, chat in zip((first, folder), formats, strict=True):
        write_json(place / "config.json", config | {"chat": chat})
    with pytest.raises(InputError, match="different chat formats"):
        comparison.require_comparable(Run(first), Run(folder))
    write_json(folder / "config.json", config | {"chat": formats[0] | {"thoughts": []}})
    comparison.require_comparable(Run(first), Run(folder))  # an older run knew fewer entries
    for place, prefix in ((first, [1]), (folder, [2])):
        write_json(place / "arms" / "base" / "openers.json", {"refusal": [prefix]})
    with pytest.raises(InputError, match="different refusal prefixes"):
        comparison.require_comparable(Run(first), Run(folder))
    (folder / "arms" / "base" / "openers.json").unlink()
    prompts = pd.read_parquet(folder / "prompts.parquet")
    prompts.loc[3, "prompt"] += "!"
    prompts.to_parquet(folder / "prompts.parquet")
    with pytest.raises(InputError, match=f"{len(prompts) - 1} in common"):
        comparison.require_comparable(run, Run(folder))


def test_arms_of_two_runs_are_matched_by_objective(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", concepts=("safety",), seeds=2, weights=())
    path = folder / "arms" / "npo-safety-1" / "config.json"
    write_json(path, read_json(path) | {"objective": "rmu"})
    run = Run(folder)
    compared = [table["title"].rpartition(": ")[2] for table in comparison.differences(run, run)]
    assert compared == ["NPO and NPO", "RMU and RMU"]


def test_a_run_does_not_differ_from_itself(run: Run) -> None:
    (table,) = comparison.differences(run, run)
    assert len(table["rows"]) == 7
    for row in table["rows"]:
        assert row["first"] == row["second"]
        assert row["change"].startswith(("0.00", "–"))
        assert row["verdict"] in ("not decided", "not measured")


def test_explore_opens_the_report_or_says_how_to_write_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    folder = Path(shutil.copytree(run.record.folder, tmp_path / "run"))
    with pytest.raises(InputError, match="sp.report"):
        sp.Run(folder).explore()
    (folder / "report.html").write_text('<p class="x">a & b</p>', encoding="utf-8")
    sp.Run(folder).explore()
    assert opened == [(folder / "report.html").resolve().as_uri()]
    shown: list[Any] = []
    display = Mock(IFrame=lambda *_, **options: options, display=shown.append)
    kernel = Mock(get_ipython=lambda: Mock(spec=["kernel"]), display=display)
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    sp.Run(folder).explore()
    (srcdoc,) = shown[0]["extras"]
    assert len(opened) == 1 and '"x"' not in srcdoc and "&lt;p class=&quot;x&quot;&gt;" in srcdoc


def test_the_example_run_opens_a_page_that_it_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run = sp.example_run()
    run.explore()
    run.explore()
    assert len(set(opened)) == 1 and opened[0].endswith("example/report.html")
    assert not (run.record.folder / "report.html").exists()
    assert "Pair by pair" in Path(urlsplit(opened[0]).path).read_text("utf-8")
