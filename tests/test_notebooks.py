"""Notebooks are in step with their .py twins, and the twins run from top to bottom.

The committed .ipynb keeps its outputs, so that the figures can be seen where the repository is
browsed; they are written by ``python -m tests.run_notebooks`` and stay below 1 MB each. What runs
here are the twins, with fewer prompts and draws: outputs are not compared, since the last digits
depend on the machine.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import RichOutput, capture_output
from traitlets.config import Config

from tests.run_notebooks import FOLDER, notebook_of

TWINS = sorted(FOLDER.glob("*.py"))
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
each_twin = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.stem)

#: What is written in a twin (its name's first two digits), and what is run in its place: fewer
#: prompts of the same world, fewer random draws, fewer unlearned domains.
FEWER_PROMPTS = (
    'sp.prompts("organism")',
    "sp.unlearning.organism.load_world(sp.unlearning.organism.shipped())"
    ".prompts(train=36, validation=8, test=12)",
)
FEWER = {
    "00": [
        (
            'prompts = sp.prompts("organism" if in_own_language else None)',
            'prompts = sp.prompts("organism" if in_own_language else None)\n'
            'prompts = prompts[prompts["pair"].isin(prompts["pair"].dropna().unique()[::2])]',
        ),
        ("length = 16 if in_own_language else 48", "length = 16"),
        (".head(96)", ".head(16)"),
    ],
    "01": [FEWER_PROMPTS, ("permutations=500", "permutations=100")],
    "02": [FEWER_PROMPTS],
    "03": [
        FEWER_PROMPTS,
        *((f"controls={draws}", "controls=4") for draws in (20, 40)),
        ("random_moves(40)", "random_moves(4)"),
        *((f"max_steps={steps}", f"max_steps={steps // 3}") for steps in (20, 30)),
        *((f".record, {steps})", f".record, {steps // 3})") for steps in (20, 30)),
    ],
    "04": [
        (
            "control=False)",
            "control=False)\n"
            "plan = replace(plan, prompts={prompts!r}, every_step=False, gate=False)",
        ),
        ("DOMAINS, seeds=(0,)", "DOMAINS[:3], seeds=(0,)"),
        ("read_worlds()", "read_worlds()[:3]"),
        (
            "readout, context.prompts,",
            'readout, context.prompts.groupby(["domain", "label", "split"]).head(6),',
        ),
        ("draws=40, place_draws=20", "draws=20, place_draws=19"),
        ("(32,), (0.1,)", "(8,), (0.1,)"),
        ("count=2), settings", "count=1), replace(settings, max_steps=4)"),
    ],
}


def smaller(twin: Path, prompts: Path) -> nbformat.NotebookNode:
    """The twin's notebook with fewer of what its reader gets many of."""
    notebook = notebook_of(twin)
    for written, run_instead in FEWER[twin.name[:2]]:
        cells = [cell for cell in notebook.cells if written in cell.source]
        assert cells, f"{twin.name} no longer says {written}"
        for cell in cells:
            cell.source = cell.source.replace(written, run_instead.format(prompts=str(prompts)))
    return notebook


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
def test_the_front_door_and_two_more_imports_are_enough(twin: Path) -> None:
    ours = re.compile(
        r"^(?:from|import) (?:spillover|analyses|interp|unlearning|experiments)\b", re.M
    )
    text = twin.read_text(encoding="utf-8")
    assert "\nimport spillover as sp\n" in text and len(ours.findall(text)) <= 3


@each_twin
def test_outputs_are_of_one_clean_run_and_name_no_machine(twin: Path) -> None:
    path = twin.with_suffix(".ipynb")
    text = path.read_text(encoding="utf-8")
    assert len(text) < 1_000_000
    assert not re.search(r"/(work|tmp|home|root|Users)/|site-packages", text)
    code = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = [output.get("data", {}) for cell in code for output in cell.outputs]
    assert all(("image/png" in data) == ("image/svg+xml" in data) for data in shown)
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert "error" not in kinds and "execute_result" in kinds


def shown_by(
    notebook: nbformat.NotebookNode, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[RichOutput]]:
    """What its cells print and display, run in this process: a kernel imports everything anew."""
    monkeypatch.chdir(folder)
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    # Figures are drawn, in one of their two formats.
    shown = {*shell.display_formatter.format_types} - {"image/png"}
    shell.display_formatter.active_types = sorted(shown)
    try:
        with shell.display_trap, capture_output() as captured:
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    shell.run_cell(cell.source).raise_error()
    finally:
        InteractiveShell.clear_instance()
    return captured.stdout, captured.outputs


@pytest.mark.slow
@pytest.mark.usefixtures("without_report")
@each_twin
def test_every_cell_runs(
    twin: Path, small_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown_by(smaller(twin, small_world), tmp_path, monkeypatch)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_first_one_takes_any_model(
    checkpoint_of: Callable[[str], Path],
    small_world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its one line changed: a model of random weights, whose prompts and scorer are others."""
    notebook = smaller(FOLDER / "00_your_own_model.py", small_world)
    (cell,) = [cell for cell in notebook.cells if '\nMODEL = "organism"' in cell.source]
    own = f"MODEL = {str(checkpoint_of('llama'))!r}  #"
    cell.source = cell.source.replace('MODEL = "organism"  #', own)
    printed, displayed = shown_by(notebook, tmp_path, monkeypatch)
    assert "LlamaForCausalLM" in printed
    assert sum("image/svg+xml" in one.data for one in displayed) == 3
