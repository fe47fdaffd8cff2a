"""Check the links inside the built site: every page, file and anchor that is named exists."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """The anchors and the addresses of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif name in ("href", "src") and value:
                self.addresses.add(value)


def broken_links(html: Path) -> list[str]:
    """``page: address`` for every link to a page, file or anchor of the site that is missing."""
    texts = {path.resolve(): path.read_text(encoding="utf-8") for path in html.rglob("*.html")}
    pages = {path: _Page(text) for path, text in texts.items()}
    broken = []
    for path, page in sorted(pages.items()):
        for address in sorted(page.addresses):
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            place = path.parent / unquote(parts.path) if parts.path else path
            place = place.resolve()
            anchor = unquote(parts.fragment)
            missing = anchor and place in pages and anchor not in pages[place].anchors
            if not place.exists() or missing:
                broken.append(f"{path.relative_to(html.resolve())}: {address}")
    return broken
