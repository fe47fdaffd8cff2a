"""Runs the .py twins in notebooks/ and writes what they show into the .ipynb beside them.

python -m tests.run_notebooks            # all of them
python -m tests.run_notebooks 03         # those whose names begin so
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SECONDS = 1200


def notebook_of(twin: Path) -> nbformat.NotebookNode:
    """The twin's cells, not run; numbered, so that the same text gives the same file."""
    notebook = jupytext.read(twin)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    return notebook


def run(notebook: nbformat.NotebookNode, folder: Path, seconds: float = SECONDS) -> None:
    """Execute in place, in ``folder``.

    Raises:
        CellExecutionError: a cell fails.
        CellTimeoutError: all of it takes longer than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    # Without ipywidgets a line about it would be in the first output.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress")
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars would be in the outputs as well
    NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        timeout_func=lambda cell: max(1, int(deadline - time.monotonic())),
        record_timing=False,
    ).execute()


def main() -> None:
    names = tuple(sys.argv[1:]) or ("",)
    for twin in sorted(FOLDER.glob("*.py")):
        if twin.name.startswith(names):
            notebook = notebook_of(twin)
            start = time.monotonic()
            run(notebook, FOLDER)
            jupytext.write(notebook, twin.with_suffix(".ipynb"))
            print(f"{twin.stem}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
