"""What a user sees while something long runs: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

Advance = Callable[[int], None]
SECONDS_BETWEEN_LINES = 15


class Progress:
    """Shows named stages. Use :meth:`stage` around each, and call what it yields with counts.

    Args:
        console: where to; standard error by default, so that output can be piped.
        quiet: show nothing.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)

    def say(self, text: str) -> None:
        """One plain line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """A stage of ``total`` units; yields a function that advances it by a count."""
        started = time.monotonic()
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            with RichProgress(*columns, console=self.console, transient=True) as bars:
                task = bars.add_task(name, total=total)
                yield lambda count: bars.advance(task, count)
        else:
            self.say(f"{name} …")
            yield self._lines(name, total)
        self.say(f"{name}: {time.monotonic() - started:.1f} s")

    def _lines(self, name: str, total: int | None) -> Advance:
        """How far a stage is, in a plain line now and then."""
        done, said = 0, time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                said = time.monotonic()
                self.say(f"{name}: {done}" + (f" of {total}" if total else ""))

        return advance
