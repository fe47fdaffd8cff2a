"""Collect the sources of the site in one folder: pages, images, notebooks and generated pages."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from experiments.site.commands import command_pages
from experiments.site.methods import methods_page
from experiments.site.names import name_pages

ROOT = Path(__file__).resolve().parents[2]
DOCS, NOTEBOOKS = ROOT / "docs", ROOT / "notebooks"
SHOWN = (".md", ".png", ".svg", ".csv")
LINK = re.compile(r"(!?)\[([^][]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def assemble(target: Path) -> None:
    """Write all sources into ``target``; a file that has not changed keeps its date."""
    made = {}
    for name, content in sources():
        made[target / name] = content.encode() if isinstance(content, str) else content
    for path, content in made.items():
        if not path.is_file() or path.read_bytes() != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for path in target.rglob("*"):
        if path.is_file() and path not in made:
            path.unlink()


def sources() -> Iterator[tuple[str, str | bytes]]:
    """Every file of the site by its path: those that are written by hand, then the generated."""
    for path in sorted(DOCS.rglob("*")):
        if path.suffix in SHOWN:
            name = path.relative_to(DOCS).as_posix()
            text = path.suffix == ".md"
            yield name, with_links(path) if text else path.read_bytes()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        yield f"notebooks/{path.name}", with_links(path)
    yield "changelog.md", with_links(ROOT / "CHANGELOG.md")
    yield "contributing.md", with_links(ROOT / "CONTRIBUTING.md")
    yield from command_pages(ROOT / "README.md")
    yield "reference/methods.md", methods_page()
    yield from name_pages()


def place_of(path: Path) -> Path | None:
    """Where a file of the repository stands on the site, if it does."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS)
    if path.is_relative_to(NOTEBOOKS) and path.suffix == ".ipynb":
        return path.relative_to(ROOT)
    return Path(f"{path.stem.lower()}.md") if path.parent == ROOT else None


def with_links(path: Path) -> str:
    """A page's text; links to other pages lead to them on the site, others become plain text."""
    here = place_of(path)
    assert here is not None

    def on_the_site(found: re.Match[str]) -> str:
        image, label, address, anchor = found.groups(default="")
        if re.match(r"\w+:", address):
            return found[0]
        place = place_of(Path(os.path.normpath(path.parent / address)))
        if place is None:
            return label
        return f"{image}[{label}]({os.path.relpath(place, here.parent)}{anchor})"

    return LINK.sub(on_the_site, path.read_text(encoding="utf-8"))
