"""Mutants: what is changed and what is not, and that a test which notices is found."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

from experiments import mutants
from experiments.mutants import all_mutants, false_alarms, known_mutants, page_of, try_mutants
from experiments.mutation import Mutant, mutants_of
from experiments.related_tests import related_tests

SOURCE = '''"""A module that says 1 + 1."""
import numpy as np

LIMIT: float = 0.5


def part(values, *, least: int = 2, batch_size: int = 64) -> np.ndarray:
    """The last ``least`` - 1 values."""
    if not len(values) < least:
        raise ValueError("fewer than " + str(least + 1))
    kept = [value for value in values[1:] if value > LIMIT and value != 3]
    return np.mean(kept, axis=0, keepdims=True) / 2
'''


def mutated(folder: Path, source: str) -> list[Mutant]:
    (folder / "interp").mkdir(exist_ok=True)
    (folder / "interp" / "one.py").write_text(source, encoding="utf-8")
    return mutants_of(folder, "interp/one.py")


def test_mutants_change_what_is_computed_and_nothing_that_is_said(tmp_path: Path) -> None:
    found = {(one.old, one.new) for one in mutated(tmp_path, SOURCE)}
    assert found >= {
        ("0.5", "1.0"),
        ("2", "3"),
        ("not len(values) < least", "(len(values) < least)"),
        ("len(values) < least", "(len(values) <= least)"),
        ("1:", "(1) + 1:"),
        ("value > LIMIT", "(value <= LIMIT)"),
        ("value != 3", "(value == 3)"),
        ("value > LIMIT and value != 3", "(value > LIMIT or value != 3)"),
    }
    assert any("np.sum" in new for _, new in found)
    assert any("axis=1" in new for _, new in found)
    texts = " ".join(old for old, _ in found)
    assert "str(least" not in texts and "64" not in texts and "says" not in texts


def test_every_mutant_is_another_program(tmp_path: Path) -> None:
    for one in mutated(tmp_path, SOURCE):
        changed = one.applied(SOURCE.encode())
        assert changed is not None
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(SOURCE))
        assert one.applied(SOURCE.replace(one.old, "…").encode()) is None


def test_a_change_elsewhere_draws_no_other_mutants(tmp_path: Path) -> None:
    before = [one.key for one in mutated(tmp_path, SOURCE)]
    after = [one.key for one in mutated(tmp_path, SOURCE + "\n\nOTHER = 7\n")]
    assert set(before) < set(after)


def test_the_known_mutants_fit_the_code_as_it_is() -> None:
    """Where a line has been written anew, write its mutant in mutants.toml anew."""
    known = known_mutants()
    assert len(known) == 62 and len({one.key for one in known}) == 62
    absent = [
        f"{one.file}: {one.where}"
        for one in known
        if one.applied((mutants.ROOT / one.file).read_bytes()) is None
    ]
    assert len(absent) <= 3, absent
    drawn = all_mutants(1, {"interp": 3, "analyses": 2})[62:]
    assert [one.file.split("/")[0] for one in drawn] == ["interp"] * 3 + ["analyses"] * 2


def test_the_tests_that_come_near_are_those_that_import() -> None:
    assert related_tests(mutants.ROOT, "interp/similarity/procrustes.py")[0] == (
        "tests/test_procrustes.py"
    )
    near = related_tests(mutants.ROOT, "interp/similarity/gains.py")
    assert "tests/test_rotation.py" in near and "tests/test_endpoint.py" not in near


@pytest.mark.slow
def test_what_a_test_notices_is_killed_and_what_none_does_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, results = tmp_path / "root", tmp_path / "results.jsonl"
    (root / "interp").mkdir(parents=True)
    (root / "tests").mkdir()
    for folder in ("interp", "tests"):
        (root / folder / "__init__.py").touch()
    (root / "interp" / "one.py").write_text("def half(x):\n    return x / 2\n")
    (root / "tests" / "test_one.py").write_text(
        "from interp.one import half\n\n\ndef test_half():\n    assert half(4) == 2\n"
    )
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    monkeypatch.setattr(mutants, "ROOT", root)
    renamed = ("tests/test_one.py::test_that_was_renamed",)
    wrong, alike, known = (
        Mutant("interp/one.py", "half", "x / 2", new, tests=renamed, equivalent=because)
        for new, because in (("x / 3", ""), ("x / 2.0", ""), ("0.5 * x", "the same"))
    )
    gone = Mutant("interp/one.py", "half", "x / 9", "x / 2")
    table = try_mutants([wrong, alike, gone, known], results)
    assert table["verdict"].tolist() == ["killed", "survived", "absent", "equivalent"]
    assert table["by"][0] == "tests/test_one.py::test_half"
    assert (root / "interp" / "one.py").read_text() == "def half(x):\n    return x / 2\n"
    assert false_alarms(table) == []
    assert "| interp | 4 | 1 | 1 | 1 |" in page_of(table)
    seen = results.read_text().count("\n")
    try_mutants([wrong, alike], results)
    assert results.read_text().count("\n") == seen + 1, "only what lived is tried again"
