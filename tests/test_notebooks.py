"""Notebooks are in step with their .py twins, and the twins run from top to bottom.

The committed .ipynb keeps its outputs, so that the figures can be seen where the repository is
browsed; they are written by ``python -m tests.run_notebooks`` and stay below 1 MB each. What runs
here are the twins: outputs are not compared, since the last digits depend on the machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from tests.run_notebooks import FOLDER, notebook_of, run

TWINS = sorted(FOLDER.glob("*.py"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
each_twin = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.stem)


def test_there_are_notebooks_and_each_has_a_twin() -> None:
    assert len(TWINS) >= 3
    assert sorted(FOLDER.glob("*.ipynb")) == [twin.with_suffix(".ipynb") for twin in TWINS]


@each_twin
def test_the_notebook_says_what_its_twin_says(twin: Path) -> None:
    shown = nbformat.read(twin.with_suffix(".ipynb"), as_version=4)
    written = notebook_of(twin)
    nbformat.validate(shown)
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (shown, written)]
    assert cells[0] == cells[1], "run: python -m tests.run_notebooks"


@each_twin
def test_outputs_are_of_one_clean_run_and_name_no_machine(twin: Path) -> None:
    path = twin.with_suffix(".ipynb")
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert not re.search(r"/(work|tmp|home|root|Users)/|site-packages", text)
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds and "execute_result" in kinds


@pytest.mark.slow
@each_twin
def test_every_cell_runs(twin: Path, tmp_path: Path) -> None:
    """In a folder of its own, within five minutes (on two idle cores: less than one)."""
    run(notebook_of(twin), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_first_one_takes_any_model(
    checkpoint_of: Callable[[str], Path], tmp_path: Path
) -> None:
    """With its one line changed: a model of random weights, whose prompts and scorer are others."""
    notebook = notebook_of(FOLDER / "00_your_own_model.py")
    (cell,) = [cell for cell in notebook.cells if "\nMODEL = shipped()" in cell.source]
    own = f"MODEL = {str(checkpoint_of('llama'))!r}  #"
    cell.source = cell.source.replace("MODEL = shipped()  #", own)
    run(notebook, tmp_path)
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert "LlamaForCausalLM" in outputs[0].text
    assert sum("image/svg+xml" in out.get("data", {}) for out in outputs) == 3
