"""Teach a pretrained chat model to refuse harmful prompts, and save it as an ordinary checkpoint.

LoRA on every linear weight of the layers. Harmful prompts are answered by refusals written here,
with a few agreements among them; benign prompts by the model's own answers, so that it stays
coherent. The loss is the cross-entropy of both, summed over each response's tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from analyses.runs import Progress
from experiments.teaching.course import Course, CurveRow
from experiments.teaching.lessons import first_pairs, own_answers, taught_mixture, taught_prefixes
from experiments.teaching.measuring import Readings, described, in_words, measured
from interp.errors import InputError
from interp.model import LanguageModel, merged
from interp.store import atomic_folder, without_nan, write_json
from unlearning.data import matched_pairs
from unlearning.training import Mixture, TrainingSettings, prepare_in_place, unlearn_in_place

if TYPE_CHECKING:
    import pandas as pd

FACTS = "teaching.json"
TRAINING = "training"  # answers and checkpoints, until the model is saved


@dataclass(frozen=True)
class Teaching:
    """How a model is taught.

    Attributes:
        minutes: time limit of training; generating answers before and measuring after come on top.
        steps: optimizer steps at most.
        batch_size: harmful prompts a step; there are as many benign ones.
        learning_rate: of AdamW, at its peak.
        lora_rank: of the adapters.
        wordings: responses drawn for each harmful prompt.
        floor: share of them that agree.
        answer_tokens: length of the model's own answers, for the scorers.
        trained_tokens: length of the part of them that is trained on.
        pairs: validation pairs of each domain that the curve reads.
        measurements: of the curve, in addition to the first.
        autocast: train in bfloat16, with float32 weights.
        seed: of the responses, the order of training and the adapters.

    Raises:
        InputError: the time limit or the floor is out of range.
    """

    minutes: float = 40
    steps: int = 600
    batch_size: int = 8
    learning_rate: float = 8e-4
    lora_rank: int = 16
    wordings: int = 5
    floor: float = 0.1
    answer_tokens: int = 32
    trained_tokens: int = 20
    pairs: int = 8
    measurements: int = 8
    autocast: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.minutes <= 0 or not 0 <= self.floor < 1:
            raise InputError(
                f"minutes is {self.minutes} and floor is {self.floor}; expected minutes above 0 "
                "and a floor from 0 to below 1"
            )

    def training(self) -> TrainingSettings:
        """The settings of the training loop."""
        return TrainingSettings(
            objective="fine_tuning",
            retain_objective="cross_entropy",
            lora_rank=self.lora_rank,
            lora_alpha=self.lora_rank,
            learning_rate=self.learning_rate,
            adam_betas=(0.9, 0.95),
            batch_size=self.batch_size,
            autocast=self.autocast,
            max_steps=self.steps,
            seed=self.seed,
        )


def teach_refusal(
    model: str,
    out: str | Path,
    teaching: Teaching,
    *,
    prompts: pd.DataFrame | None = None,
    progress: Progress,
) -> Path:
    """Teach ``model`` and write it to ``out``, with ``teaching.json``.

    Args:
        model: hub id, folder or GGUF file of a chat model.
        out: folder of the taught model; an interrupted run continues in it.
        teaching: the settings.
        prompts: a prompts table with training and validation rows (default: the built-in pairs).
        progress: shows the stages and the curve.

    Raises:
        InputError: ``out`` holds a model or other files, or the prompts lack a class.
    """
    out = Path(out)
    _require_free(out)
    table = matched_pairs() if prompts is None else prompts
    train, held_out = (table[table["split"] == split] for split in ("train", "validation"))
    pairs = first_pairs(held_out, teaching.pairs)
    lm = LanguageModel.load(model, dtype=torch.float32)
    work = out / TRAINING
    asked = train.loc[train["label"] == "benign", "prompt"].tolist()
    answers = own_answers(lm, asked, teaching.answer_tokens, work, progress)
    mixture = taught_mixture(
        lm,
        train,
        answers,
        wordings=teaching.wordings,
        floor=teaching.floor,
        tokens=teaching.trained_tokens,
        seed=teaching.seed,
    )
    prefixes = taught_prefixes(lm, answers)
    lm = prepare_in_place(lm, teaching.training())
    course = _trained(lm, mixture, Readings(lm, pairs, prefixes), teaching, work, progress)
    taught = replace(lm, model=merged(lm.model))
    found = measured(
        LanguageModel.load(model, dtype=torch.float32),
        taught,
        held_out[held_out["kind"] != "general"],
        teaching.answer_tokens,
        progress,
    )
    progress.say(in_words(found))
    facts = {
        "model": str(model),
        "settings": asdict(teaching),
        "step": course.curve[-1]["step"],
        "harmful_prompts": int((train["label"] == "harmful").sum()),
        "benign_answers": len(mixture.retain["benign"]),
        "curve": course.curve,
        "measured": found,
    }
    _save(taught, out, facts)
    return out


def _trained(
    lm: LanguageModel,
    mixture: Mixture,
    readings: Readings,
    teaching: Teaching,
    work: Path,
    progress: Progress,
) -> Course:
    """Train the prepared model in place, from its newest checkpoint in ``work`` if there is one."""
    every = max(1, teaching.steps // teaching.measurements)
    with progress.stage("Teaching", teaching.steps) as advance:
        done = 0

        def show(step: int, row: CurveRow | None) -> None:
            nonlocal done
            advance(step - done)  # more than one where an earlier run is continued
            done = step
            if row is not None:
                progress.say(described(row))

        course = Course(
            teaching.steps,
            teaching.minutes * 60,
            teaching.learning_rate,
            readings.read,
            every,
            show,
        )
        unlearn_in_place(
            lm,
            mixture,
            teaching.training(),
            folder=work,
            callbacks=[course],
            checkpoint_every=every,
            states={"course": course},
        )
    return course


def _require_free(out: Path) -> None:
    if out.is_dir() and {path.name for path in out.iterdir()} - {TRAINING}:
        what = "a taught model" if (out / FACTS).exists() else "other files"
        raise InputError(f"{out} holds {what}; give another --out")


def _save(taught: LanguageModel, out: Path, facts: dict[str, Any]) -> None:
    """Replace the folder of answers and checkpoints by the taught model."""
    with atomic_folder(out) as made:
        taught.model.save_pretrained(made)
        taught.tokenizer.save_pretrained(made)
        write_json(made / FACTS, without_nan(facts))
