"""How long work says how far it is: it calls a function with how many more are done."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], None]


def silent(_count: int) -> None:
    """Show nothing."""
