"""Progress of long work: the work calls a function with the number of items just done."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], None]


def silent(_count: int) -> None:
    """Show nothing."""
