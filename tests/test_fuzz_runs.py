"""Run folders with any file missing, torn or of another version: right tables, or one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spillover as sp
from analyses.explain.explaining import planned_losses
from analyses.report import run_report
from analyses.runs import LeakageMatrix
from tests.fuzzing import answer_or_line, fuzzed

pytestmark = pytest.mark.slow

WHOLE = Path(sp.example_run().record.folder)
LEFT_OUT = ("safety-*", "control-*")  # what a plain arm and its retain set show is enough
FILES = sorted(
    path.relative_to(WHOLE)
    for path in WHOLE.rglob("*")
    if path.is_file() and not any(path.parent.match(name) for name in LEFT_OUT)
)
TABLES = ("arms", "behaviour", "leakage", "curves", "recovery", "rotation", "cosine")


@st.composite
def damages(draw: st.DrawFn) -> tuple[Path, Any]:
    """A file of the run, and what becomes of it: bytes, nothing, or less of its columns or keys."""
    path = draw(st.sampled_from(FILES))
    whole = (WHOLE / path).read_bytes()
    kinds = [
        st.none(),
        st.integers(0, len(whole) - 1).map(lambda cut: whole[:cut]),
        st.sampled_from([b"", b"[]", b"{}", b"null", b"\xff\xfe", b"3", b"{" * 5000]),
    ]
    if path.suffix == ".json" and isinstance(known := json.loads(whole), dict) and known:
        kinds.append(st.sampled_from(sorted(known)).map(lambda key: without_key(known, key)))
    if path.suffix == ".parquet":
        columns = list(pd.read_parquet(WHOLE / path).columns)
        kinds.append(st.sampled_from([("column", name) for name in columns] + [("rows", 0)]))
    return path, draw(st.one_of(kinds))


def without_key(known: dict[str, Any], key: str) -> bytes:
    return json.dumps({name: value for name, value in known.items() if name != key}).encode()


def damage(folder: Path, path: Path, what: Any) -> None:
    if what is None:
        (folder / path).unlink()
    elif isinstance(what, bytes):
        (folder / path).write_bytes(what)
    else:
        table = pd.read_parquet(folder / path)
        table = table.drop(columns=what[1]) if what[0] == "column" else table.head(0)
        table.to_parquet(folder / path)


@pytest.mark.parametrize("names", [[], ["."], ["nowhere"], ["file"], [""], ["a", "b/a"]])
def test_what_is_no_run_is_not_loaded_for_a_matrix(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert answer_or_line(lambda: LeakageMatrix.load([tmp_path / name for name in names])) is None


@fuzzed(8)
@given(damaged=damages())
def test_a_damaged_run_is_read_rightly_or_refused(
    damaged: tuple[Path, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(WHOLE, folder, ignore=shutil.ignore_patterns(*LEFT_OUT))
    damage(folder, *damaged)
    run = answer_or_line(lambda: sp.Run(folder))
    if run is not None:
        found = {name: answer_or_line(lambda name=name: getattr(run, name)) for name in TABLES}
        if found["arms"] is not None and found["leakage"] is not None:
            assert set(found["leakage"].get("arm", ())) <= set(found["arms"]["arm"])
        answer_or_line(lambda: run_report.render(run, (), show_completions=True))
        cells = answer_or_line(lambda: LeakageMatrix.load([folder]).cells)
        assert cells is None or set(cells["source"]) <= set(run.record.domains)
    else:
        assert answer_or_line(lambda: LeakageMatrix.load([folder])) is None
    assert (answer_or_line(lambda: planned_losses(folder)) is None) == (run is None)
