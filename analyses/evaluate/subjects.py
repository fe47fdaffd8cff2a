"""The models under evaluation: loading, turns on the device, answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analyses.evaluate.findings import BASE, MODEL
from analyses.evaluate.plan import EvaluationPlan, Inputs
from analyses.runs import Progress
from interp.errors import InputError
from interp.model import LanguageModel
from interp.progress import Advance
from unlearning.generation import Answer, AnswerLog, answers_key, generate


@dataclass(frozen=True)
class EvaluatedModel:
    """One of the models: ``role`` is ``model`` or ``base``; ``lm`` is None behind a server."""

    role: str
    name: str
    lm: LanguageModel | None
    fingerprint: str
    answers: tuple[Answer, ...] = ()

    @property
    def share_cut(self) -> float:
        """Share of the answers that the limit on new tokens cut off."""
        return 1 - sum(answer.finished for answer in self.answers) / len(self.answers)


@dataclass(frozen=True)
class Session:
    """Shared inputs of the stages of an evaluation.

    Attributes:
        inputs: the plan and its prompts.
        folder: stores answers and scores of tasks.
        progress: the display.
        models: the model and, if given, its base.
    """

    inputs: Inputs
    folder: Path
    progress: Progress
    models: tuple[EvaluatedModel, ...] = ()

    @classmethod
    def begin(cls, inputs: Inputs, folder: Path, progress: Progress) -> Session:
        """Load the models and let them answer every prompt.

        Raises:
            ModelError: one cannot be loaded.
            InputError: the two do not have one vocabulary.
        """
        empty = cls(inputs, folder, progress)
        models = models_of(inputs.plan, progress)
        return replace(empty, models=tuple(empty.answered(m, empty.prompts) for m in models))

    @property
    def plan(self) -> EvaluationPlan:
        """The plan of the evaluation."""
        return self.inputs.plan

    @property
    def prompts(self) -> list[str]:
        """The texts of the prompts."""
        return list(self.inputs.prompts["prompt"])

    @property
    def reference(self) -> EvaluatedModel:
        """The base, or the model itself without a base."""
        return self.models[-1]

    @property
    def loaded(self) -> list[EvaluatedModel]:
        """The models with readable probabilities."""
        return [one for one in self.models if one.lm is not None]

    @contextmanager
    def at_work(
        self, one: EvaluatedModel, stage: str, total: int | None = None
    ) -> Iterator[tuple[LanguageModel, Advance]]:
        """The model on its device during a stage of ``total`` units, and its progress function."""
        with on_device(one, self.plan) as lm, self.progress.stage(stage, total) as advance:
            yield lm, advance

    def answered(
        self, one: EvaluatedModel, prompts: Sequence[str], *, temperature: float = 0.0
    ) -> EvaluatedModel:
        """The model with its answer to every prompt; the folder stores each answer at once.

        Decoding is greedy; a loaded model samples if ``temperature`` is above 0.
        """
        plan = self.plan
        name = f"{one.role}-sampled" if temperature else one.role
        path = self.folder / "answers" / f"{name}.jsonl"
        stage = f"{one.name}: answers" + (", sampled" if temperature else "")
        with self.progress.stage(stage, len(prompts)) as advance:
            if one.lm is None:
                from unlearning.serving import Endpoint, answers_of, served_key

                endpoint = Endpoint(plan.model, plan.server)
                system = plan.model_options.get("system")
                options: dict[str, Any] = {"max_new_tokens": plan.answer_tokens, "system": system}
                log = AnswerLog(path, served_key(endpoint, **options), say=self.progress.say)
                answers = answers_of(endpoint, prompts, progress=advance, log=log, **options)
                return replace(one, answers=tuple(answers))
            with on_device(one, plan) as lm:
                options = {"max_new_tokens": plan.answer_tokens, "temperature": temperature}
                key = answers_key(lm, fingerprint=one.fingerprint, **options)
                log = AnswerLog(path, key, say=self.progress.say, note=lm.chat.note)
                answers = generate(
                    lm, prompts, batch_size=plan.batch_size, progress=advance, log=log, **options
                )
        return replace(one, answers=tuple(answers))


def models_of(plan: EvaluationPlan, progress: Progress) -> tuple[EvaluatedModel, ...]:
    """The model and, if given, its base, loaded but not at work.

    Raises:
        ModelError: one cannot be loaded.
        InputError: the two do not have one vocabulary.
    """
    if plan.server:
        name = f"{plan.model} at {plan.server}"
        found = [EvaluatedModel(MODEL, name, None, "not known of a server")]
    else:
        found = [_loaded(MODEL, plan.model, plan, progress)]
    if plan.base:
        found.append(_loaded(BASE, plan.base, plan, progress))
        _require_one_vocabulary(found)
    return tuple(found)


@contextmanager
def on_device(one: EvaluatedModel, plan: EvaluationPlan) -> Iterator[LanguageModel]:
    """The model on its device; moved off afterwards if another model needs the memory."""
    assert one.lm is not None
    model = one.lm.model
    if len(plan.loaded) == 1:
        yield one.lm
        return
    import torch

    device = plan.model_options.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    # The stub's annotation of .to() takes the model for a submodule.
    model.to(device)  # type: ignore[arg-type]
    try:
        yield one.lm
    finally:
        model.to("cpu")  # type: ignore[arg-type]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _loaded(role: str, source: str, plan: EvaluationPlan, progress: Progress) -> EvaluatedModel:
    from transformers.utils import logging

    logging.disable_progress_bar()  # one bar per file would hide our own
    options = dict(plan.base_options if role == BASE else plan.model_options)
    if len(plan.loaded) > 1:
        options["device"] = "cpu"
    with progress.stage(f"loading {plan.name_of(source)}"), warnings.catch_warnings():
        # The notes say so instead.
        warnings.filterwarnings("ignore", message="the tokenizer has no chat template")
        lm = LanguageModel.load(source, **options)
    return EvaluatedModel(role, plan.name_of(source), lm, lm.fingerprint())


def _require_one_vocabulary(models: Sequence[EvaluatedModel]) -> None:
    tokenizers = [one.lm.tokenizer for one in models if one.lm is not None]
    first, last = tokenizers[0], tokenizers[-1]
    if first.get_vocab() != last.get_vocab():
        raise InputError(
            f"{models[0].name} and its base {models[-1].name} have different tokenizers, so one "
            "does not derive from the other; evaluate each separately"
        )
