"""Score every domain along a run, and keep the model at the wanted forgetting level.

u_d(s) = 1 − R_d(s)/R_d(0), with R_d the mean p_R of the domain's harmful prompts. The forgetting
level is the running maximum of the target's u on VALIDATION prompts; results use test prompts.

The run keeps the weights of the first step that reaches the wanted level. Training then continues
for some steps to extend the curve. If it stopped at the crossing, about half of the bootstrap
resamples of the prompts would not cross, and results at the crossing would have no interval. A run
that levels off below the wanted level, as one with a large retain weight may, ends there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from interp.errors import TrainingError
from interp.model import LanguageModel, adapters_merged
from interp.store import read_json, write_json, write_table
from unlearning.scoring import Evaluation

if TYPE_CHECKING:
    import pandas as pd

# The curve ends at this level, or after 1.5 times the steps that the wanted level took.
CURVE_TO = 0.95
CURVE_STEPS = 1.5
# A run whose level rose by less than this in the second half of its steps has levelled off.
LEAST_RISE, FEWEST_STEPS = 0.02, 20
# Levels at which the answers of the target are read, in addition to the wanted one.
LEVELS = (0.25, 0.5, 0.75, 0.9)
# Scored steps per doubling where each one generates answers.
BY_TEXT = 1
STATE = "dose.json"
_NO_REFUSAL = 1e-6  # R_d(0) of a domain that never refused, and so loses nothing


def target_rate(scores: pd.DataFrame, concept: str) -> float:
    """Mean p_R over the concept's harmful validation prompts of one scored step."""
    rows = scores[
        (scores["domain"] == concept)
        & (scores["label"] == "harmful")
        & (scores["split"] == "validation")
    ]
    return float(rows["p_R"].mean())


def is_scored(step: int, per_doubling: int = 6) -> bool:
    """Every step up to twice ``per_doubling``, then that many per doubling.

    They are log-spaced because the crossing is unknown. With six, scoring a few hundred prompts
    takes less time than the training steps: 22 scored steps of the first 40, 36 of 200.
    """
    spacing = max(1, 2 ** ((step // per_doubling).bit_length() - 1))
    return step <= per_doubling or step % spacing == 0


@dataclass(frozen=True)
class Bounds:
    """Limits on losses that end training early.

    With bounds, the run keeps the model with the highest forgetting level within them.

    Attributes:
        leak: largest allowed lost share of another domain's refusal: max over domains of u_d.
        utility: largest allowed lost share of p_C on benign prompts.
    """

    leak: float | None = None
    utility: float | None = None

    def __str__(self) -> str:
        given = {"--leak-bound": self.leak, "--utility-bound": self.utility}
        return ", ".join(f"{name} {value:g}" for name, value in given.items() if value is not None)

    def __bool__(self) -> bool:
        return self.leak is not None or self.utility is not None

    def hold(self, base: pd.DataFrame, scores: pd.DataFrame, concept: str | None) -> bool:
        """Whether a scored step is within the bounds, by its validation prompts."""
        before, now = (table[table["split"] == "validation"] for table in (base, scores))
        if self.leak is not None:
            others = now[(now["label"] == "harmful") & (now["domain"] != concept)]
            for domain in others["domain"].unique():
                was = target_rate(before, domain)
                if was > _NO_REFUSAL and lost_share(was, target_rate(now, domain)) > self.leak:
                    return False
        if self.utility is not None:
            was, left = (t.loc[t["label"] == "benign", "p_C"].mean() for t in (before, now))
            if lost_share(was, left) > self.utility:
                return False
        return True


def lost_share(before: float, now: float) -> float:
    """The share of ``before`` that is gone; 0 where there was nothing to lose."""
    return 1 - now / before if before > 0 else 0.0


class ForgettingCurve(TrainerCallback):
    """Scores the model along training, keeps it at the wanted level, and stops training.

    Args:
        lm: the trained model.
        evaluation: the prompts to score, including harmful validation prompts of ``concept``.
        concept: the target; None for a control arm, which never stops early.
        base: scores of the same prompts at step 0.
        stop_at: forgetting level (0 … 1) at which the model is kept; 1: the last step.
        every_step: score after each step instead of log-spaced steps.
        by_text: scoring generates answers, so fewer steps are scored.
        keep: called with the model at that level, or at the end if it is never reached.
        bounds: training ends when the run exceeds them; see :class:`Bounds`.
        read_text: called with the step and the forgetting level when the level passes one of
            ``LEVELS`` or the wanted level.
    """

    def __init__(
        self,
        lm: LanguageModel,
        evaluation: Evaluation,
        concept: str | None,
        base: pd.DataFrame,
        *,
        stop_at: float,
        every_step: bool,
        by_text: bool = False,
        keep: Callable[[], object],
        bounds: Bounds | None = None,
        read_text: Callable[[int, float], object] | None = None,
    ) -> None:
        self.lm = lm
        self.evaluation = evaluation
        self.concept = concept
        self.base_rate = target_rate(base, concept) if concept else float("nan")
        self.stop_at = stop_at if stop_at < 1 else math.inf
        self.every_step = every_step
        self.spacing = (BY_TEXT,) if by_text else ()
        self.keep = keep
        self.bounds = bounds or Bounds()
        self.read_text = read_text
        self.level = 0.0
        self.kept_at: int | None = None
        self._ended_at: int | None = None
        self.tables = [base.assign(step=0, dose=0.0)]

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        step, last = state.global_step, state.global_step >= state.max_steps
        if last or self.every_step or is_scored(step, *self.spacing):
            before = self.level
            with adapters_merged(self.lm.model):  # once, for all that is read at this step
                scores = self.evaluation.masses(self.lm)
                if self.concept is not None:
                    now = lost_share(self.base_rate, target_rate(scores, self.concept))
                    self.level = max(before, now)
                if self.read_text and any(before < one <= self.level for one in self._read_at):
                    self.read_text(step, self.level)
            if self.concept is not None:
                within = self.bounds.hold(self.tables[0], scores, self.concept)
                crosses = before < self.stop_at <= self.level
                further = before < self.level and before < self.stop_at
                if within and (crosses or (self.bounds and further)):
                    self._keep(step)
                if not within or self._is_drawn(step) or self.has_levelled_off(step):
                    control.should_training_stop, self._ended_at = True, step
            self.tables.append(scores.assign(step=step, dose=self.level))
        return control

    def has_levelled_off(self, step: int) -> bool:
        """Whether the level is above half of the wanted one and has stopped rising."""
        if step < FEWEST_STEPS or not self.stop_at / 2 <= self.level < self.stop_at:
            return False
        before = [t["dose"].iloc[0] for t in self.tables if 2 * t["step"].iloc[0] <= step]
        return self.level - max(before) < LEAST_RISE

    def level_at(self, step: int) -> float:
        """The forgetting level at a scored step."""
        return max(float(t["dose"].iloc[0]) for t in self.tables if t["step"].iloc[0] == step)

    def finish(self) -> None:
        """After training, keep the final model if the level was never reached.

        Raises:
            TrainingError: the run left the bounds before it forgot anything within them.
        """
        if self.kept_at is None:
            step = int(self.tables[-1]["step"].iloc[-1])
            if not self.bounds.hold(self.tables[0], self.tables[-1], self.concept):
                raise TrainingError(
                    f"no step of {self.concept} lies within the bounds ({self.bounds}): they are "
                    f"exceeded at step {step}; give a lower --learning-rate, or wider bounds"
                )
            self._keep(step)

    def save_state(self, folder: Path) -> None:
        """The scores so far, for a run that is resumed."""
        write_table(folder / "scores.parquet", self.scores())
        state = {"dose": self.level, "kept_at": self.kept_at, "ended_at": self._ended_at}
        write_json(folder / STATE, state)

    def load_state(self, folder: Path) -> None:
        """Restore the scores that :meth:`save_state` wrote."""
        import pandas as pd

        stored = pd.read_parquet(folder / "scores.parquet")
        # One table a step again: the bounds compare with the first one, step 0.
        self.tables = [rows for _, rows in stored.groupby("step", sort=False)]
        state = read_json(folder / STATE)
        self.level, self.kept_at = state["dose"], state["kept_at"]
        self._ended_at = self.ended_at(folder)

    @staticmethod
    def ended_at(folder: Path) -> int | None:
        """The step at which the curve ended training, if it had in the state in ``folder``.

        A run that is resumed from this state trains no further.
        """
        found: int | None = read_json(folder / STATE).get("ended_at")
        return found

    @property
    def _read_at(self) -> tuple[float, ...]:
        return (*LEVELS, self.stop_at)

    def _keep(self, step: int) -> None:
        self.kept_at = step
        self.keep()

    def _is_drawn(self, step: int) -> bool:
        """Whether the curve has three steps and extends far enough beyond the wanted level."""
        if self.kept_at is None or self.level < self.stop_at or len(self.tables) < 2:
            return False
        return self.level >= max(self.stop_at, CURVE_TO) or step >= CURVE_STEPS * self.kept_at

    def scores(self) -> pd.DataFrame:
        """Every scored step's rows, step 0 included."""
        import pandas as pd

        return pd.concat(self.tables, ignore_index=True)
