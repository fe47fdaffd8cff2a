"""Opens a page: inside a Jupyter notebook, or else in the browser."""

from __future__ import annotations

import sys
import webbrowser
from html import escape
from pathlib import Path


def open_page(path: Path, *, height: int = 800) -> None:
    """Show a self-contained page under the running cell, or in the default browser.

    A notebook keeps the whole page in its output: a server need not reach the file.
    """
    if not _in_notebook():
        webbrowser.open(path.resolve().as_uri())
        return
    from IPython.display import IFrame, display

    page = f'srcdoc="{escape(path.read_text("utf-8"))}"'
    display(IFrame("about:blank", width="100%", height=height, extras=[page]))


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; a terminal cannot show pages."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    return shell is not None and hasattr(shell, "kernel")
