"""The command line with empty pictures, for processes that tests start.

    python -m tests.quick WORDS

Drawing takes most of the time of a small study. Other tests look at what is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def save_empty(_figure: Figure, target: Any, **_options: Any) -> None:
    """In place of ``Figure.savefig``."""
    write = target.write if hasattr(target, "write") else Path(target).write_bytes
    write(b"<svg/>")


if __name__ == "__main__":
    from spillover.__main__ import main

    Figure.savefig = save_empty  # type: ignore[assignment]
    main()
