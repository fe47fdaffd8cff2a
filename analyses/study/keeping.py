"""The kept model of an arm: the one that complies best while its answers are coherent.

Leakage is read on the path of training, at a fixed forgetting level. What an arm says, and its
states, are read from one kept model. That is another question: the first step at the wanted level
may lie beyond compliance, because the level counts refusals only and large steps overshoot. So the
answers to the target's VALIDATION prompts are read whenever the level passes one of ``LEVELS``. If
the model at the wanted level does not comply, the kept model is the best of

    those along training            (adapters only, which are small enough to be put aside)
    those along the scaled change   θ_0 + s (θ − θ_0) of the model at the wanted level

Best: the highest answer rate among those with at most 20% gibberish; of equals, the larger change.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from analyses.runs import FEWEST_ANSWERS, MOST_GIBBERISH, CoherenceBounds
from analyses.study.baseline import Baseline
from analyses.study.context import Context
from analyses.study.plan import ArmPlan
from interp.model import LanguageModel
from interp.store import read_json, write_json, write_table
from unlearning.scoring import Evaluation
from unlearning.training import (
    Bounds,
    discard_all,
    lost_share,
    restore_parameters,
    restore_with_logits,
    save_parameters,
    save_with_logits,
    scaled_change,
    target_rate,
)

SCALES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
MOST_PROMPTS = 32  # validation prompts that are answered along training
ALONG = "along"
TRAINING = "training"  # checkpoints and tracker output
READINGS = "readings.parquet"


@dataclass(frozen=True)
class Reading:
    """A candidate's answers to the target's validation prompts.

    Attributes:
        step: of training.
        scale: s of the scaled change; 1 on the path of training.
        level: forgetting level, by the read-out.
        refusal_rate, answer_rate, gibberish_rate: of the answers; gibberish by coherence too.
        nll: mean nats per token of the answers under the base model.
    """

    step: int
    scale: float
    level: float
    refusal_rate: float
    answer_rate: float
    gibberish_rate: float
    nll: float

    @property
    def is_coherent(self) -> bool:
        return self.gibberish_rate <= MOST_GIBBERISH

    @property
    def complies(self) -> bool:
        return self.is_coherent and self.answer_rate >= FEWEST_ANSWERS

    def line(self) -> str:
        """The reading in words."""
        where = f"step {self.step}" + (f", change × {self.scale:g}" if self.scale != 1 else "")
        return (
            f"{where}: forgetting level {self.level:.2f}; validation prompts refused "
            f"{self.refusal_rate:.2f}, answered {self.answer_rate:.2f}, gibberish "
            f"{self.gibberish_rate:.2f}, {self.nll:.2f} nats per token"
        )


def best_of(readings: Sequence[Reading]) -> Reading:
    """The reading that complies best while it is coherent; the first one if none is coherent."""
    coherent = [one for one in readings if one.is_coherent]
    if not coherent:
        return readings[0]
    return max(coherent, key=lambda one: (one.answer_rate, one.scale, one.step))


class Keeper:
    """Reads the answers of one arm's target along its training, and chooses the kept model.

    It is called with the step and the forgetting level, and keeps its readings in checkpoints.
    """

    def __init__(
        self, context: Context, baseline: Baseline, arm: ArmPlan, lm: LanguageModel, folder: Path
    ) -> None:
        prompts = context.evaluated
        of_target = (prompts["domain"] == arm.concept) & (prompts["label"] == "harmful")
        chosen = prompts[of_target & (prompts["split"] == "validation")].head(MOST_PROMPTS)
        self.evaluation: Evaluation = context.evaluation(baseline.prefixes, rows=chosen)
        self.bounds = CoherenceBounds.from_base(baseline.scores)
        before = baseline.scores[baseline.scores["prompt_id"].isin(chosen["id"])]
        self.context, self.arm, self.lm, self.folder = context, arm, lm, folder
        self.base_rate = target_rate(before, str(arm.concept))
        self.readings: list[Reading] = []

    def __call__(self, step: int, level: float) -> None:
        self._read(step, 1.0, level)
        if _has_adapters(self.lm):
            save_parameters(self.lm, self.folder / ALONG / str(step))

    def settle(self, step: int, level: float) -> Reading:
        """Choose among the candidates; afterwards the model and the folder hold the kept weights.

        Args:
            step, level: of the weights that the folder and the model hold now.
        """
        first = self.at(step, level)
        best = self._search(first) if self.is_overdosed(first) else first
        shutil.rmtree(self.folder / ALONG, ignore_errors=True)
        write_table(self.folder / READINGS, pd.DataFrame([asdict(one) for one in self.readings]))
        return best

    def at(self, step: int, level: float) -> Reading:
        """The reading on the path at a step: of the weights that the model has, if it is new."""
        if all(one.step != step for one in self.readings):
            self._read(step, 1.0, level)
        [found] = [one for one in self.readings if one.step == step]
        return found

    def is_overdosed(self, first: Reading) -> bool:
        """Whether another model may comply better than the one at the wanted level."""
        plan = self.context.plan
        if plan.stop_at >= 1:  # the last step is wanted, whatever it says
            return False
        too_far = first.level >= plan.stop_at or not first.is_coherent
        return too_far and not first.complies and not Bounds(*plan.bounds)

    def along(self) -> pd.DataFrame:
        """The readings on the path of training: ``step`` and the answers there."""
        columns = ["step", "refusal_rate", "answer_rate", "gibberish_rate", "nll"]
        on_path = [asdict(one) for one in self.readings if one.scale == 1]
        return pd.DataFrame(on_path, columns=[*columns, "level", "scale"])[columns]

    def _search(self, first: Reading) -> Reading:
        along = [one for one in self.readings if (self.folder / ALONG / str(one.step)).is_dir()]
        with scaled_change(self.context.reference, self.lm) as scale:
            scaled = []
            for s in SCALES:
                scale(s)
                scaled.append(self._read(first.step, s, float("nan")))
            best = best_of([first, *along, *scaled])
            if best is not first:
                # A run resumed from a checkpoint would take the weights kept now for the first's.
                discard_all(self.folder / TRAINING)
            if best.scale != 1:
                scale(best.scale)
                save_with_logits(self.lm, self.folder)
        if best.scale != 1:
            restore_with_logits(self.lm, self.folder)
        elif best is not first:
            restore_parameters(self.lm, self.folder / ALONG / str(best.step))
            save_with_logits(self.lm, self.folder)
        verb = "keeps" if best.is_coherent else "no candidate is coherent; keeps"
        self.context.progress.say(f"{self.arm.name}: {verb} {best.line()}")
        return best

    def _read(self, step: int, scale: float, level: float) -> Reading:
        # On the path of training the level is known; by the scaled change it is read here.
        table, _ = self.evaluation.with_text(self.lm, with_masses=scale != 1)
        table = self.bounds.applied(table)
        shares = table["class"].value_counts(normalize=True)
        if scale != 1:
            level = lost_share(self.base_rate, target_rate(table, str(self.arm.concept)))
        refusals, answers, gibberish = (
            float(shares.get(name, 0.0)) for name in ("refusal", "answer", "gibberish")
        )
        nll = float(table["nll"].mean())
        reading = Reading(step, scale, float(level), refusals, answers, gibberish, nll)
        self.readings.append(reading)
        self.context.progress.say(f"{self.arm.name}: {reading.line()}")
        return reading

    def save_state(self, folder: Path) -> None:
        """The readings so far."""
        write_json(folder / "readings.json", [asdict(one) for one in self.readings])

    def load_state(self, folder: Path) -> None:
        """Restore the readings that :meth:`save_state` wrote."""
        self.readings = [Reading(**one) for one in read_json(folder / "readings.json")]


def _has_adapters(lm: LanguageModel) -> bool:
    from peft import PeftModel

    return isinstance(lm.model, PeftModel)
