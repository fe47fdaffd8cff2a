"""The Python on the pages runs, and the generated pages of the site name all that there is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer

import spillover as sp
from analyses.cli import COMMANDS, app
from analyses.contain.shallow_recovery.figures import shallow_recovery_figure
from analyses.reproduce.figures import entanglement_figure
from experiments.gallery import ROWS, shallow_recovery
from experiments.site.assemble import with_links
from experiments.site.commands import command_pages
from experiments.site.links import broken_links
from experiments.site.methods import methods_page
from experiments.site.names import FOLDER, name_pages
from tests.test_docs import ROOT, code_blocks
from tests.test_front_door import few
from unlearning.losses import FORGET

DOCS = ROOT / "docs"
# Pages with Python that needs another machine, and pages that another test runs.
ELSEWHERE = {
    "distributed": "several devices; tests/test_distributed.py",
    "sources": "the hub; tests/test_sources.py",
    "plugins": "tests/test_plugins.py",
    "matrix": "tests/test_matrix.py",
    "evaluation": "a model's folder; the gallery runs it",
    "report": "tests/browser; it opens a browser",
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
    own = own.groupby(["domain", "label", "split"]).head(16).reset_index(drop=True)
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
    # What a page registers is gone after it.
    for part in ("_entries", "_abouts", "_origins", "_makers"):
        monkeypatch.setattr(FORGET, part, dict(getattr(FORGET, part)))
    for name in ("mine", "compared"):  # where the pages expect a run
        shutil.copytree(sp.example_run().record.folder, f"runs/{name}")
    space: dict[str, Any] = {"__name__": "page"}
    for block in code_blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(block, str(page), "exec"), space)


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_a_page_says_at_once_what_its_reader_can_do(page: Path) -> None:
    """In its first two sentences."""
    text = re.sub(r"\A---\n.*?\n---\n", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    first = " ".join(text.split("\n\n")[1].split())
    sentences = re.split(r"(?<=[.:]) ", first)[:2]
    assert re.search(r"\b[Yy]ou (?:can|know|have)\b", " ".join(sentences)), first


# The generated pages; Sphinx itself runs in `make docs`


def test_every_command_and_option_has_its_place() -> None:
    pages = dict(command_pages(ROOT / "README.md"))
    program: Any = typer.main.get_command(app)
    for name in COMMANDS:
        page = pages[f"reference/commands/{name}.md"]
        command = program.commands[name]
        for one in getattr(command, "commands", {name: command}).values():
            places = re.findall(r"^`{4}\{option\} (.*)$", page, re.MULTILINE)
            named = set(re.findall(r"--?[a-z][\w-]*", " ".join(places)))
            assert named >= {opt for p in one.params for opt in p.opts if opt.startswith("-")}
            assert {p.name.upper() for p in one.params if not p.opts[0].startswith("-")} <= {
                *places
            }
        assert f"({name}.md)" in pages["reference/commands/index.md"]


def test_every_public_name_has_its_place() -> None:
    """Those of the front door once; those of a room there, or in the front door."""
    pages = dict(name_pages())
    described = [
        name for page in pages.values() for name in re.findall(r"^\.\. [\w:]+:: (\S+)", page, re.M)
    ]
    assert len(described) == len(set(described))
    own = [name.partition(".")[2] for name in described if name.startswith("spillover.")]
    assert sorted(own) == sorted({*sp.__all__} - {"analyses", "interp", "unlearning"})
    rooms = [Path(path).stem for path in pages if path.startswith(f"{FOLDER}/interp.")]
    for room in rooms:
        listed = import_module(room).__all__
        page = pages[f"{FOLDER}/{room}.md"]
        assert all(f"{room}.{name}" in page or f"spillover.{name}`" in page for name in listed)


def test_the_method_map_has_a_file_for_every_entry() -> None:
    rows = re.findall(r"^\| `[^`]+` \|.*\| `([\w/]+\.py)` \|$", methods_page(), re.MULTILINE)
    assert len(rows) > 50 and all((ROOT / file).is_file() for file in rows)


def test_the_shipped_rows_of_the_gallery_are_drawn() -> None:
    """R3 has a panel for each unlearned concept, though its table has every domain."""
    layers = pd.read_csv(ROWS / "reproduce" / "entanglement.csv")
    assert layers["source"].nunique() > 1
    assert len(entanglement_figure(layers, 0, ["safety"]).axes) == 1
    assert len(shallow_recovery_figure(shallow_recovery()).axes) == 4


def test_links_lead_to_the_site_or_become_text(tmp_path: Path) -> None:
    text = with_links(ROOT / "README.md")
    assert "](explanation/matrix.md)" in text and "](docs/" not in text
    (measured,) = DOCS.rglob("benchmarks.md")
    assert "tests/benchmarks)" not in with_links(measured)  # not on the site
    (tmp_path / "a.html").write_text('<p id="here"><a href="#here"><a href="a.html#there">')
    (tmp_path / "b.html").write_text('<img src="c.png"><a href="https://x.org/c"><a href="a.html">')
    assert broken_links(tmp_path) == ["a.html: a.html#there", "b.html: c.png"]
