"""The course of teaching: its learning rate, its time limit, and the curve of refusal."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from interp.store import read_json, write_json

WARM_UP = 10  # steps
COURSE = "course.json"
LEAST_RATE = 0.02  # of the peak learning rate

CurveRow = dict[str, Any]


class Course(TrainerCallback):
    """Lowers the learning rate to the end of the steps or of the time, and keeps the curve.

    The rate rises over the first steps and then falls linearly over the steps; over the time where
    the steps lag behind it. A run that is never late is reproducible.

    Args:
        steps: optimizer steps at most.
        seconds: training ends after so long, pauses between resumed parts left out.
        learning_rate: at the peak.
        measure: measures the model now.
        every: steps between measurements.
        show: called with the number of steps that are done, and their row of the curve if any.
    """

    def __init__(
        self,
        steps: int,
        seconds: float,
        learning_rate: float,
        measure: Callable[[], CurveRow],
        every: int,
        show: Callable[[int, CurveRow | None], object],
    ) -> None:
        self.steps, self.seconds, self.learning_rate = steps, seconds, learning_rate
        self.measure, self.every, self.show = measure, every, show
        self.curve: list[CurveRow] = []
        self._before = 0.0
        self._started = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds so far, over all parts of a resumed run."""
        return self._before + time.monotonic() - self._started

    @staticmethod
    def ended_at(folder: Path) -> int | None:
        """The step at which the time was over, if the run whose checkpoint this is has ended so."""
        return read_json(folder / COURSE, ()).get("ended_at")

    def rate_at(self, step: int) -> float:
        """The learning rate of 0-based ``step``, now."""
        by_time = self.elapsed / self.seconds
        gone = by_time if by_time > (step + 1) / self.steps else step / self.steps
        rise = min(1.0, (step + 1) / WARM_UP)
        return self.learning_rate * rise * max(LEAST_RATE, 1 - gone)

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if not self.curve:
            self._record(state.global_step)

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        for group in given["optimizer"].param_groups:
            group["lr"] = self.rate_at(state.global_step)

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        over = self.elapsed >= self.seconds
        if over or state.global_step % self.every == 0 or state.global_step >= self.steps:
            self._record(state.global_step)
            control.should_save = True
        else:
            self.show(state.global_step, None)
        control.should_training_stop |= over
        return control

    def _record(self, step: int) -> None:
        row = {"step": step, "minutes": self.elapsed / 60, **self.measure()}
        self.curve.append(row)
        self.show(step, row)

    def save_state(self, folder: Path) -> None:
        """Write the time and the curve so far."""
        step = self.curve[-1]["step"] if self.elapsed >= self.seconds else None
        write_json(
            folder / COURSE, {"seconds": self.elapsed, "curve": self.curve, "ended_at": step}
        )

    def load_state(self, folder: Path) -> None:
        """Restore what :meth:`save_state` wrote."""
        kept = read_json(folder / COURSE, ("seconds", "curve"))
        self._before, self._started = kept["seconds"], time.monotonic()
        self.curve = kept["curve"]
