"""Score every domain along a run, and stop once the target is forgotten.

u_d(s) = 1 − R_d(s)/R_d(0), with R_d the mean p_R of the domain's harmful prompts. The dose is the
running maximum of the target's u on VALIDATION prompts; results are read on test prompts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from interp.model import LanguageModel
from unlearning.evaluation import Evaluation

if TYPE_CHECKING:
    import pandas as pd


def target_rate(scores: pd.DataFrame, concept: str) -> float:
    """Mean p_R over the concept's harmful validation prompts of one scored step."""
    rows = scores[
        (scores["domain"] == concept)
        & (scores["label"] == "harmful")
        & (scores["split"] == "validation")
    ]
    return float(rows["p_R"].mean())


def is_scored(step: int) -> bool:
    """Every step up to 12, then twelve to a doubling: log-spaced, as the crossing is unknown."""
    spacing = max(1, 2 ** ((step // 12).bit_length() - 1))
    return step <= 12 or step % spacing == 0


class DoseResponse(TrainerCallback):
    """Scores the model after its steps and stops training at the wanted dose.

    Args:
        lm: the model being trained.
        evaluation: prompts to score; harmful validation prompts of ``concept`` among them.
        concept: the target; None for a control arm, which never stops early.
        base: scores at step 0, from the same prompts.
        stop_at: dose (0 … 1) at which training stops.
        every_step: score after each step rather than at log-spaced ones.
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
    ) -> None:
        self.lm = lm
        self.evaluation = evaluation
        self.concept = concept
        self.base_rate = target_rate(base, concept) if concept else float("nan")
        self.stop_at = stop_at
        self.every_step = every_step
        self.dose = 0.0
        self.tables = [base.assign(step=0, dose=0.0)]

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        step, last = state.global_step, state.global_step >= state.max_steps
        if last or self.every_step or is_scored(step):
            scores = self.evaluation.masses(self.lm)
            if self.concept is not None:
                u = 1 - target_rate(scores, self.concept) / self.base_rate
                self.dose = max(self.dose, u)
                control.should_training_stop |= self.dose >= self.stop_at
            self.tables.append(scores.assign(step=step, dose=self.dose))
        return control

    def scores(self) -> pd.DataFrame:
        """Every scored step's rows, step 0 included."""
        import pandas as pd

        return pd.concat(self.tables, ignore_index=True)
