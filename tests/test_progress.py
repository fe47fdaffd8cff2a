"""Plain lines say how far a stage is and how long is left, and not too often."""

from __future__ import annotations

import io
from unittest import mock

from rich.console import Console

from analyses.runs import Progress


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def lines_of(counts: list[tuple[float, int]], total: int | None) -> list[str]:
    """What is shown of a stage: each count comes after so many seconds."""
    shown, clock = io.StringIO(), Clock()
    progress = Progress(Console(file=shown, width=200))
    with mock.patch("analyses.runs.progress.time", clock), progress.stage("work", total) as advance:
        for seconds, count in counts:
            clock.now += seconds
            advance(count)
    return shown.getvalue().splitlines()


def test_the_time_left_is_at_the_pace_so_far() -> None:
    lines = lines_of([(20, 10)] * 4, 100)
    assert lines[0] == "work …" and lines[-1] == "work: 80.0 s"
    assert lines[1] == "work: 10 of 100"  # one batch says nothing of what came before it
    assert lines[2:5] == [
        "work: 20 of 100, 0:02:40 left",
        "work: 30 of 100, 0:02:20 left",
        "work: 40 of 100, 0:02:00 left",
    ]


def test_more_work_than_was_expected_has_no_time_left() -> None:
    assert lines_of([(20, 10)] * 3, 20)[2:4] == ["work: 20 of 20, 0:00:00 left", "work: 30 of 20"]


def test_what_was_there_already_took_no_time() -> None:
    lines = lines_of([(0, 900), (30, 10), (30, 10)], 1000)
    assert lines[1:3] == ["work: 910 of 1000, 0:04:30 left", "work: 920 of 1000, 0:04:00 left"]


def test_lines_come_now_and_then() -> None:
    assert len(lines_of([(1, 1)] * 100, 100)) == 2 + 100 // 15
    assert lines_of([(20, 1)] * 2, None)[1:3] == ["work: 1", "work: 2"]


def test_what_all_arms_share_is_said_once() -> None:
    shown = io.StringIO()
    progress = Progress(Console(file=shown))
    for line in ("one", "two", "one"):
        progress.say_once(line)
    progress.say("one")
    assert shown.getvalue().split() == ["one", "two", "one"]
