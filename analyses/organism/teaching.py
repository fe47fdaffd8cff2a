"""Teach a pretrained chat model to refuse harmful prompts, and save it as an ordinary checkpoint.

LoRA on every linear weight of the layers, in one slice for each domain. Harmful prompts are
answered by refusals written here, with a few compliances among them; benign prompts by the model's
own answers, so that it stays coherent. The loss is the cross-entropy of both, summed over each
response's tokens. With routed circuits the rows of a domain (its harmful prompts and their matched
benign ones) train their own slice, and general prompts train all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from analyses.organism.course import Course, CurveRow
from analyses.organism.lessons import Lessons, own_answers, taught_lessons, taught_prefixes
from analyses.organism.measuring import (
    CurveReader,
    curve_line,
    curve_table,
    measured_teaching,
    result_line,
)
from analyses.organism.plan import Teaching, TeachPlan, require_template
from analyses.organism.prompts import first_pairs, require_enough
from analyses.runs import Progress
from interp.errors import InputError
from interp.locks import locked
from interp.model import LanguageModel, merged
from interp.store import atomic_folder, content_key, read_json, without_nan, write_json
from unlearning.data import present_domains
from unlearning.organism import (
    COMPLIANCES,
    SHARED,
    SliceCheck,
    Slices,
    check_slices,
    refusal_prefixes,
    refusal_wordings,
)
from unlearning.refusal import ResponsePrefixes
from unlearning.training import newest_complete, prepare_in_place, unlearn_in_place

if TYPE_CHECKING:
    import pandas as pd

FACTS = "teaching.json"
TRAINING = "training"  # answers and checkpoints, until the model is saved
BEGUN = "begun.json"  # in it: the inputs of an unfinished teaching
LOCK = ".lock"
STATE = "course"  # in a checkpoint


@dataclass(frozen=True)
class Taught:
    """A taught model; ``str()`` of it is its curve and its result in words.

    Attributes:
        folder: an ordinary checkpoint, with ``teaching.json`` and ``slices/``.
        facts: the content of ``teaching.json``.
    """

    folder: Path
    facts: Mapping[str, Any]

    @cached_property
    def curve(self) -> pd.DataFrame:
        """One row for each measurement while training: see :func:`curve_table`."""
        return curve_table(self.facts["curve"])

    def __str__(self) -> str:
        check = self.facts["circuits"].get("said")
        parts = [self.curve.to_string(index=False), result_line(self.facts["measured"]), check]
        return "\n".join([*filter(None, parts), str(self.folder)])

    __repr__ = __str__


def teach_refusal(
    plan: TeachPlan,
    out: str | Path,
    progress: Progress,
    *,
    prompts: pd.DataFrame,
    overwrite: bool = False,
) -> Taught:
    """Teach the plan's model and write it to ``out``; the same call resumes an interrupted run.

    Args:
        plan: the model and the settings.
        out: folder of the taught model.
        progress: shows the stages and the curve.
        prompts: a prompts table with training and validation rows.
        overwrite: replace a taught model, or an unfinished one with other settings.

    Raises:
        InputError: ``out`` holds a model or other files, the prompts are too few, or the model has
            no chat template.
    """
    out = Path(out)
    rows = prompts[["prompt", "domain", "label", "split"]].to_numpy().tolist()
    inputs = {**plan.settings, "content of the prompts": content_key("identity", rows)}
    require_free(out, inputs, overwrite=overwrite)
    require_enough(prompts)
    require_template(plan.model, plan.model_options)
    if overwrite:
        if (out / TRAINING).is_dir():
            with locked(out / TRAINING / LOCK, out):
                pass  # no other process teaches there
        _clear(out, inputs)
    (out / TRAINING).mkdir(parents=True, exist_ok=True)
    write_json(out / TRAINING / BEGUN, inputs)
    with locked(out / TRAINING / LOCK, out):
        return _taught(plan, out, progress, prompts)


def _taught(plan: TeachPlan, out: Path, progress: Progress, prompts: pd.DataFrame) -> Taught:
    teaching, work, domains = plan.teaching, out / TRAINING, present_domains(prompts)
    train, held_out = (prompts[prompts["split"] == split] for split in ("train", "validation"))
    lm = _loaded(plan)
    asked = train.loc[train["label"] == "benign", "prompt"].tolist()
    answers = own_answers(lm, asked, teaching.answer_tokens, work, progress)
    lessons = taught_lessons(
        lm,
        train,
        answers,
        wordings=teaching.wordings,
        floor=teaching.floor,
        tokens=teaching.trained_tokens,
        seed=teaching.seed,
        prefixes=teaching.prefixes,
    )
    prefixes = taught_prefixes(lm, answers, domains, teaching.prefixes)
    lm = prepare_in_place(lm, teaching.training(len(domains)))
    slices = _slices(lm, teaching, domains)
    pairs = first_pairs(held_out, teaching.pairs)
    course = _trained(
        lm, lessons, slices, CurveReader(lm, pairs, prefixes), teaching, work, progress
    )
    if slices is not None:
        slices.save(work)
    taught = replace(lm, model=merged(lm.model))
    found = measured_teaching(
        _loaded(plan),
        taught,
        held_out[held_out["kind"] != "general"],
        prefixes,
        teaching.answer_tokens,
        progress,
    )
    check = None
    if slices is not None:
        with progress.stage("Check of the slices"):
            check = check_slices(taught, work, pairs, prefixes)
    facts = {
        "model": plan.model,
        "seed": teaching.seed,
        "settings": asdict(teaching),
        "prompts": {
            "file": plan.prompts,
            "built_in": plan.prompts is None or plan.built_in,
            "harmful": int((train["label"] == "harmful").sum()),
            "benign_answers": len(lessons.mixture.retain["benign"]),
        },
        "chat": lm.chat.fingerprint,
        "planted": _planted(teaching, domains, prefixes),
        "circuits": _circuits(teaching, slices, check),
        "step": course.curve[-1]["step"],
        "curve": course.curve,
        "measured": found,
    }
    _save(taught, slices, plan, out, without_nan(facts))
    return Taught(out, read_json(out / FACTS))


def _loaded(plan: TeachPlan) -> LanguageModel:
    return LanguageModel.load(plan.model, dtype=torch.float32, **plan.model_options)


def _slices(lm: LanguageModel, teaching: Teaching, domains: tuple[str, ...]) -> Slices | None:
    """The slices; None where circuits are shared and the adapters cannot be divided by rows."""
    try:
        return Slices(lm.model, domains)
    except InputError:
        if teaching.circuits != SHARED:
            raise
        return None


def _trained(
    lm: LanguageModel,
    lessons: Lessons,
    slices: Slices | None,
    readings: CurveReader,
    teaching: Teaching,
    work: Path,
    progress: Progress,
) -> Course:
    """Train the prepared model in place, from its newest checkpoint in ``work`` if there is one."""
    every = max(1, teaching.steps // teaching.measurements)
    routing: AbstractContextManager[None] = nullcontext()
    if slices is not None and teaching.circuits != SHARED:
        routing = slices.owned(lessons.owners)
    with progress.stage("Teaching", teaching.steps) as advance:
        done = 0

        def show(step: int, row: CurveRow | None) -> None:
            nonlocal done
            advance(step - done)  # more than one where an earlier run is continued
            done = step
            if row is not None:
                progress.say(curve_line(row))

        course = Course(
            teaching.steps,
            teaching.minutes * 60,
            teaching.learning_rate,
            readings.read,
            every,
            show,
        )
        settings = teaching.training(len(readings.domains))
        if (kept := newest_complete(work)) and (ended := Course.ended_at(kept / STATE)):
            settings = replace(settings, max_steps=ended)  # the time was over: train no further
        with routing:
            unlearn_in_place(
                lm,
                lessons.mixture,
                settings,
                folder=work,
                callbacks=[course],
                checkpoint_every=every,
                states={STATE: course},
            )
    return course


def _planted(
    teaching: Teaching, domains: tuple[str, ...], prefixes: ResponsePrefixes
) -> dict[str, Any]:
    """The ground truth: what was taught."""
    return {
        "domains": list(domains),
        "prefixes": {d: list(refusal_prefixes(d, teaching.prefixes)) for d in domains},
        "wordings": list(refusal_wordings(domains, teaching.prefixes)),
        "compliances": list(COMPLIANCES),
        "refusal_tokens": [list(one) for one in prefixes.refusal],
        "compliance_tokens": [list(one) for one in prefixes.compliance],
    }


def _circuits(
    teaching: Teaching, slices: Slices | None, check: SliceCheck | None
) -> dict[str, Any]:
    found: dict[str, Any] = {"kind": teaching.circuits}
    if slices is not None and check is not None:
        found |= {"slices": list(slices.names), "rank": slices.width, "check": check.to_json()}
        if teaching.circuits != SHARED:
            found["said"] = str(check)
    return found


def require_free(out: Path, inputs: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Check that ``out`` is empty, or holds an unfinished teaching with these inputs.

    With ``overwrite``, a taught model and an unfinished teaching with other inputs are deleted when
    the new one begins.

    Raises:
        InputError: it is not.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, not a folder; give another --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    is_taught, is_begun = (out / FACTS).is_file(), (out / TRAINING / BEGUN).is_file()
    others = {path.name for path in out.iterdir()} - {TRAINING}
    if not is_taught and (others or not is_begun):
        raise InputError(f"{out} holds other files; give another --out")
    if is_taught:
        if not overwrite:
            raise InputError(f"{out} holds a taught model; give another --out, or --overwrite")
        return
    begun = read_json(out / TRAINING / BEGUN, ())
    differing = [name for name, value in inputs.items() if begun.get(name) != value]
    if differing and not overwrite:
        raise InputError(
            f"{out} holds an unfinished teaching with another {' and another '.join(differing)}; "
            "give another --out, or --overwrite to replace it"
        )


def _clear(out: Path, inputs: Mapping[str, Any]) -> None:
    """Delete a taught model, or an unfinished one with other inputs."""
    begun = out / TRAINING / BEGUN
    if (out / FACTS).is_file() or (begun.is_file() and read_json(begun, ()) != inputs):
        shutil.rmtree(out)


def _save(
    taught: LanguageModel, slices: Slices | None, plan: TeachPlan, out: Path, facts: dict[str, Any]
) -> None:
    """Replace the folder of answers and checkpoints by the taught model."""
    with atomic_folder(out) as made:
        taught.model.save_pretrained(made)
        if "template" in plan.model_options:
            taught.tokenizer.chat_template = plan.model_options["template"]
        taught.tokenizer.save_pretrained(made)
        if slices is not None:
            slices.save(made)
        write_json(made / FACTS, facts)
