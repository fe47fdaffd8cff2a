"""Collect the model's answers and keep its refusals.

``answers.jsonl`` has every answer, refusal or not; an interrupted run resumes from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from analyses.deflect.data_set import (
    DEFLECTIONS,
    Deflected,
    deflection_summary,
    kept_refusals,
    write_deflections,
)
from analyses.deflect.plan import DeflectPlan, checked_deflection, require_same
from analyses.runs import Progress, RunFolder, write_manifest
from analyses.study import Context, scorer_of
from interp.errors import InputError
from interp.progress import Advance
from interp.store import content_key, file_hash
from unlearning.generation import Answer, AnswerLog, answers_key, generate
from unlearning.scoring import coherent_classes

ANSWERS = "answers.jsonl"
# Concurrent requests to a server; a local server batches them.
CONCURRENCY = 32


def run_deflection(
    plan: DeflectPlan, out: str | Path, progress: Progress, *, overwrite: bool = False
) -> Deflected:
    """Collect answers, keep the refusals and write the data set; the same call resumes.

    Raises:
        InputError: the plan cannot run, or the model refused nothing.
    """
    asked, folder = checked_deflection(plan, out, overwrite=overwrite), Path(out)
    scorer = scorer_of(plan.study, is_served=bool(plan.server))
    context = Context(plan.study, asked, None, RunFolder(folder), progress, scorer)
    with context.run.locked():
        return _collected(plan, context, overwrite)


def _collected(plan: DeflectPlan, context: Context, overwrite: bool) -> Deflected:
    asked, folder, progress = context.prompts, context.run.folder, context.progress
    rows = asked.loc[asked.index.repeat(plan.samples)].reset_index(drop=True)
    rows["sample"] = rows.groupby("id").cumcount()
    answers, model = _answers(plan, context, list(rows["prompt"]))
    rows["response"] = [answer.text for answer in answers]
    rows["ids"] = [list(answer.ids) for answer in answers]
    rows["finished"] = [answer.finished for answer in answers]
    scorer = context.scorer
    with progress.stage(f"scoring by {scorer.name}"):
        rows["class"] = coherent_classes(scorer, list(rows["prompt"]), list(rows["response"]))
    if not (rows["class"] == "refusal").any():
        raise InputError(
            f"{plan.model} refused none of {len(asked)} {plan.concept} prompts by {scorer.name}, "
            f"so there is nothing to unlearn; its answers are in {folder / ANSWERS}: check "
            "that the model is aligned and that this --scorer recognises its refusals"
        )
    said = {"name": scorer.name, "version": scorer.version}
    prompts = content_key("identity", asked["id"].tolist(), asked["prompt"].tolist())
    if not overwrite:
        require_same(folder, model=model, scorer=said, prompts=prompts)
    kept = kept_refusals(rows)
    found = deflection_summary(folder / DEFLECTIONS, plan.concept, rows, kept)
    write_deflections(found.path, kept)
    write_manifest(
        folder,
        command=plan.command,
        settings=plan.settings,
        model=model,
        self_check=None if plan.server else context.reference.checked.to_json(),
        scorer=said,
        prompts=prompts,
        counts=found.counts,
        base_refusal_rate=found.base_refusal_rate,
        diversity=asdict(found.diversity),
        hashes={DEFLECTIONS: file_hash(found.path)},
    )
    return found


def _answers(
    plan: DeflectPlan, context: Context, prompts: list[str]
) -> tuple[list[Answer], dict[str, Any]]:
    """The answers to every prompt, and facts about the model."""
    path, say = context.run.folder / ANSWERS, context.progress.say
    settings: dict[str, Any] = {"max_new_tokens": plan.answer_tokens}
    if plan.server:
        from unlearning.serving import Endpoint, answers_of, served_key

        endpoint = Endpoint(plan.model, plan.server, concurrency=CONCURRENCY)
        settings["system"] = plan.model_options.get("system")
        log = AnswerLog(path, served_key(endpoint, **settings), say=say)
        with _asking(plan, context, log, len(prompts)) as advance:
            answers = answers_of(endpoint, prompts, progress=advance, log=log, **settings)
        return answers, {"source": plan.model, "server": endpoint.address}
    lm = context.reference
    settings |= {"temperature": plan.temperature, "seed": plan.seed}
    fingerprint = lm.fingerprint()
    key = answers_key(lm, fingerprint=fingerprint, **settings)
    log = AnswerLog(path, key, say=say, note=lm.chat.note)
    with _asking(plan, context, log, len(prompts)) as advance:
        answers = generate(
            lm, prompts, batch_size=plan.batch_size, progress=advance, log=log, **settings
        )
    model = {
        "source": plan.model,
        "revision": plan.model_options.get("revision"),
        "commit": getattr(lm.model.config, "_commit_hash", None),
        "fingerprint": fingerprint,
        "dtype": str(lm.model.dtype),
        "tokenizer": content_key("identity", lm.tokenizer.get_vocab()),
        "chat": lm.chat.fingerprint,
    }
    return answers, model


@contextmanager
def _asking(plan: DeflectPlan, context: Context, log: AnswerLog, total: int) -> Iterator[Advance]:
    if len(log):
        context.progress.say(f"resuming from {len(log)} answers in {log.path}")
    with context.progress.stage(f"{plan.concept}: answers", total) as advance:
        yield advance
