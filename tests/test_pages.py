"""Every line of Python on the pages runs, and the pages of the site name what there is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import spillover as sp
from tests.test_docs import ROOT, code_blocks
from tests.test_front_door import few

DOCS = ROOT / "docs"
# Pages with Python that needs another machine, and pages that another test runs.
ELSEWHERE = {
    "distributed": "several devices; tests/test_distributed.py",
    "sources": "the hub; tests/test_sources.py",
    "plugins": "tests/test_plugins.py",
    "matrix": "tests/test_matrix.py",
    "evaluation": "a model's folder; the gallery runs it",
    "index": "the gallery runs while the site is built",
}
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
    if page.stem not in ELSEWHERE and code_blocks(page.read_text(encoding="utf-8"), "python")
]


@pytest.fixture(scope="module")
def small() -> Iterator[None]:
    """The front door with one model organism, few of its prompts, and one short training."""
    own = few(sp.prompts("organism"))
    lm = sp.load("organism")
    after = sp.unlearn(lm, own, concept="safety", max_steps=2, quiet=True)
    prompts = sp.prompts

    def fewer(source: Any = None) -> pd.DataFrame:
        return own if isinstance(source, str) else prompts(source)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sp, "prompts", fewer)
        patched.setattr(sp, "load", lambda model: lm)
        patched.setattr(sp, "unlearn", lambda base, table, **settings: after)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_python_of_a_page_runs(
    page: Path, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sp.example_run().record.folder, "runs/mine")  # where the pages expect a run
    space: dict[str, Any] = {"__name__": "page"}
    for block in code_blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(block, str(page), "exec"), space)


def test_every_file_of_a_run_has_a_line() -> None:
    page = (DOCS / "reference" / "run-folder.md").read_text(encoding="utf-8")
    folder = sp.example_run().record.folder
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert not {name for name in names if f"`{name}`" not in page}


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_says_at_once_what_its_reader_can_do(page: Path) -> None:
    """In its first two sentences."""
    text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    first = " ".join(text.split("\n\n")[1].split())
    sentences = re.split(r"(?<=[.:]) ", first)[:2]
    assert re.search(r"\b[Yy]ou (?:can|know|have)\b", " ".join(sentences)), first
