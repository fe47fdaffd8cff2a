"""The work of a containment study: the arms that are made, and the shallow-recovery tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from analyses.contain.arms import Design
from analyses.costs import Extent, Reading, Work, once
from analyses.study import StudyPlan, work_of

if TYPE_CHECKING:
    import pandas as pd

# Of a search, the weights that are usually tried.
USUALLY_TRIED = 3
# Of the tests: models that answer, prefixes forced on them (with none), prompts put in front (both
# kinds, with none), and trainings: two ways from the base, the contained model and three draws.
MODELS, PREFIXES, TRIGGERS, TRAININGS = 3, 10, 17, 10
SCORED = 20  # readings along a training
RELEARNING = 40  # maximum number of optimizer steps of relearning
# Next to the base and the trained copy: the plain and the contained model.
HELD = 2


@dataclass(frozen=True)
class ContainmentWork:
    """Counts the work of a design, as :func:`analyses.study.work_of` does that of a study."""

    design: Design
    shallow_recovery: bool

    def __call__(self, plan: StudyPlan, prompts: pd.DataFrame, reading: Reading) -> Extent:
        found = [
            work_of(replace(plan, arms=self.design.made(tried)), prompts, reading)
            for tried in (USUALLY_TRIED, None)
        ]
        both = Extent(found[0].expected, found[1].at_most)
        return both + self._tests(prompts, reading) if self.shallow_recovery else both

    def _tests(self, prompts: pd.DataFrame, reading: Reading) -> Extent:
        tested = (prompts["label"] == "harmful") & (prompts["split"] == "test")
        others = int((tested & (prompts["domain"] != self.design.concept)).sum())
        answers = reading.answers(others * MODELS * PREFIXES)
        longer = replace(reading, prompt=2 * reading.prompt, own=reading.prompt + reading.own)
        triggered = longer.masses(others * MODELS * TRIGGERS)
        settings = self.design.training
        steps = min(settings.max_steps, RELEARNING)
        length = reading.prompt + reading.usual * reading.answer
        tokens = settings.batch_size * length
        trained = once(Work(trained=steps * tokens, steps=steps, read=4 * tokens, arms=1))
        along = reading.masses(others).times(min(SCORED, steps))
        return answers + triggered + (trained + along).times(TRAININGS) + once(Work(arms=MODELS))
