"""The models under evaluation: loaded, taking turns on the device, answering."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from analyses.evaluate.findings import BASE, MODEL
from analyses.evaluate.plan import EvaluationPlan
from analyses.runs import Progress
from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.generation import Answer, AnswerLog, answers_key, generate


@dataclass(frozen=True)
class EvaluatedModel:
    """One of the models: ``role`` is ``model`` or ``base``; ``lm`` is None behind a server."""

    role: str
    name: str
    lm: LanguageModel | None
    fingerprint: str
    answers: tuple[Answer, ...] = ()


def subjects_of(plan: EvaluationPlan, progress: Progress) -> tuple[EvaluatedModel, ...]:
    """The model and, where there is one, its base, loaded and resting.

    Raises:
        ModelError: one cannot be loaded.
        InputError: the two do not have one vocabulary.
    """
    if plan.server:
        found = [
            EvaluatedModel(MODEL, f"{plan.model} at {plan.server}", None, "not known of a server")
        ]
    else:
        found = [_loaded(MODEL, plan.model, plan, progress)]
    if plan.base:
        found.append(_loaded(BASE, plan.base, plan, progress))
        _require_one_vocabulary(found)
    return tuple(found)


@contextmanager
def at_work(subject: EvaluatedModel, plan: EvaluationPlan) -> Iterator[LanguageModel]:
    """The subject's model on its device; off it afterwards where another one needs the room."""
    assert subject.lm is not None
    model = subject.lm.model
    if len(plan.loaded) == 1:
        yield subject.lm
        return
    import torch

    device = plan.model_options.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    # The stub's annotation of .to() takes the model for a submodule.
    model.to(device)  # type: ignore[arg-type]
    try:
        yield subject.lm
    finally:
        model.to("cpu")  # type: ignore[arg-type]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def answered(
    subject: EvaluatedModel,
    prompts: Sequence[str],
    plan: EvaluationPlan,
    folder: Path,
    progress: Progress,
    *,
    temperature: float = 0.0,
) -> EvaluatedModel:
    """The subject with its answer to every prompt, each kept in ``folder`` as it comes.

    Greedy; a model that is loaded samples where a ``temperature`` is given.
    """
    name = f"{subject.role}-sampled" if temperature else subject.role
    path = folder / "answers" / f"{name}.jsonl"
    stage = f"{subject.name}: answers" + (", sampled" if temperature else "")
    with progress.stage(stage, len(prompts)) as advance:
        if subject.lm is None:
            from unlearning.serving import Endpoint, answers_of, served_key

            endpoint = Endpoint(plan.model, plan.server)
            system = plan.model_options.get("system")
            key = served_key(endpoint, max_new_tokens=plan.answer_tokens, system=system)
            answers = answers_of(
                endpoint,
                prompts,
                max_new_tokens=plan.answer_tokens,
                system=system,
                progress=advance,
                log=AnswerLog(path, key, say=progress.say),
            )
        else:
            with at_work(subject, plan) as lm:
                key = answers_key(
                    lm,
                    max_new_tokens=plan.answer_tokens,
                    temperature=temperature,
                    fingerprint=subject.fingerprint,
                )
                answers = generate(
                    lm,
                    prompts,
                    max_new_tokens=plan.answer_tokens,
                    batch_size=plan.batch_size,
                    temperature=temperature,
                    progress=advance,
                    log=AnswerLog(path, key, say=progress.say),
                )
    return replace(subject, answers=tuple(answers))


def _loaded(role: str, source: str, plan: EvaluationPlan, progress: Progress) -> EvaluatedModel:
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for every file would bury our own
    options = dict(plan.model_options)
    if role == BASE and not plan.server:
        options.pop("revision", None)  # the model's; its base is another repository
    if len(plan.loaded) > 1:
        options["device"] = "cpu"
    with progress.stage(f"loading {plan.name_of(source)}"), warnings.catch_warnings():
        # Said among the notes instead.
        warnings.filterwarnings("ignore", message="the tokenizer has no chat template")
        lm = LanguageModel.load(source, **options)
    return EvaluatedModel(role, plan.name_of(source), lm, lm.fingerprint())


def _require_one_vocabulary(subjects: Sequence[EvaluatedModel]) -> None:
    tokenizers = [subject.lm.tokenizer for subject in subjects if subject.lm is not None]
    first, last = tokenizers[0], tokenizers[-1]
    if first.get_vocab() != last.get_vocab():
        raise InputError(
            f"{subjects[0].name} and its base {subjects[-1].name} have different tokenizers: one "
            "is not the other after a change; evaluate each by itself"
        )
