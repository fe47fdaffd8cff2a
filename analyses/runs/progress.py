"""Progress display: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from interp.progress import Advance

SECONDS_BETWEEN_LINES = 15


class Progress:
    """Shows named stages. Enter :meth:`stage` for each, and call the yielded function with counts.

    Args:
        console: output; standard error by default, so that users can pipe standard output.
        quiet: show nothing.
        stages: show stages; without them only what is said, as in one of several workers.
    """

    def __init__(
        self, console: Console | None = None, *, quiet: bool = False, stages: bool = True
    ) -> None:
        self.console = console or Console(stderr=True, quiet=quiet)
        self.stages = stages
        self._said_once: set[str] = set()

    def say(self, text: str) -> None:
        """One plain line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def say_once(self, text: str) -> None:
        """One plain line, unless it was said here before."""
        if text not in self._said_once:
            self._said_once.add(text)
            self.say(text)

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """A stage of ``total`` units; yields a function that advances it by a count."""
        if not self.stages:
            yield lambda count: None
            return
        started = time.monotonic()
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            # A large model needs more time for one batch than rich's default window.
            with RichProgress(
                *columns, console=self.console, transient=True, speed_estimate_period=600
            ) as bars:
                task = bars.add_task(name, total=total)
                yield lambda count: bars.advance(task, count)
        else:
            self.say(f"{name} …")
            yield self._lines(name, total)
        self.say(f"{name}: {time.monotonic() - started:.1f} s")

    def _lines(self, name: str, total: int | None) -> Advance:
        """Print progress and remaining time of a stage in a plain line at intervals."""
        started = said = time.monotonic()
        first = done = 0

        def advance(count: int) -> None:
            nonlocal done, first, said, started
            now = time.monotonic()
            if not done:
                # The first units may come from the cache and take no time.
                first, started = count, now
            done += count
            if now - said >= SECONDS_BETWEEN_LINES:
                said = now
                line = f"{name}: {done}" + (f" of {total}" if total else "")
                if total and first < done <= total:
                    left = (total - done) * (now - started) / (done - first)
                    line += f", {timedelta(seconds=round(left))} left"
                self.say(line)

        return advance
