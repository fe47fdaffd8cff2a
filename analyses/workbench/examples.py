"""A small finished run in the package."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from analyses.runs import Run
from analyses.runs.opening import open_page

FOLDER = Path(__file__).parent / "example"


def example_run() -> Run:
    """A finished run of the model organism, for examples and tests.

    NPO unlearns ``cybersecurity`` (once plain, once with a retain set) and ``safety``, on a part of
    the prompts of the model organism; one control arm is trained on benign answers. The folder
    holds no weights, figures or report; ``explore()`` writes the report into a temporary copy.

    Example:
        >>> run = sp.example_run()
        >>> run.arms["concept"].dropna().unique().tolist()
        ['cybersecurity', 'safety']
        >>> sorted(run.leakage["domain"].unique())[:3]
        ['bias', 'cybersecurity', 'medical_legal']
    """
    return _Example(FOLDER)


class _Example(Run):
    def explore(self) -> None:
        """Open the run's report, which the first call of a process builds (some seconds)."""
        open_page(_page())


@cache
def _page() -> Path:
    """Not in the package's folder, which may be read-only; the browser reads it later."""
    from analyses.report import write_report

    copy = Path(mkdtemp(prefix="spillover-")) / "example"
    shutil.copytree(FOLDER, copy)
    return write_report(copy)
