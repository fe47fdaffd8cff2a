"""Tables in pages of the docs: each is made again between its two marks."""

from __future__ import annotations

import re
from pathlib import Path

from interp.errors import InputError


def with_table(page: Path, command: str, table: str) -> str:
    """The page's text with ``table`` between the marks of ``python -m experiments COMMAND``.

    Raises:
        InputError: the page has no such marks.
    """
    first = rf"<!-- made by: python -m experiments {command}\b.*?-->\n"
    text, count = re.subn(
        f"({first}).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{table.rstrip()}\n\n{found[2]}",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if not count:
        raise InputError(f"{page} has no marks of the table; expected {first} and <!-- end -->")
    return text
