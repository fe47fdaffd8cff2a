"""A containment study: its arms in order, their outcomes and the recommendation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analyses.contain.advice import (
    Advice,
    advise,
    containment_label,
    find_weight,
    retained_recovery,
)
from analyses.contain.arms import Design
from analyses.contain.methods.examples import rank_examples
from analyses.contain.outcomes import Kept, Key, arms_table, kept_by, methods_table, pool_splits
from analyses.contain.work import RELEARNING
from analyses.options import ALONE, WorkerOptions
from analyses.predict import evidence_of
from analyses.report import write_report
from analyses.runs import Arm, kept_table, read_run
from analyses.study import (
    METHODS,
    RANKING,
    ArmPlan,
    Baseline,
    Context,
    MakeTogether,
    StudyPlan,
    arms_in_workers,
    attempt_arm,
    deflections_of,
    describe_study,
    establish,
    load_made,
    make_planned,
    mixture_of,
    pool_of,
    recorded,
    require_arms,
    require_replaceable,
    require_trained,
    with_enough_deflections,
    write_gate,
)
from interp.store import content_key, read_json, write_json
from unlearning.data import present_domains

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = "containment"


def run_containment(
    context: Context,
    design: Design,
    *,
    workers: WorkerOptions = ALONE,
    shallow_recovery: bool = True,
    seed: int = 0,
) -> Advice:
    """Make every arm, write ``containment/`` into the run's folder, and return the advice.

    Args:
        context: of a plan whose arms are ``design.everything()``.
        design: the varied settings.
        workers: number of arms at a time, and where they are made.
        shallow_recovery: test whether the refusals that the recommended arm kept are shallow.
        seed: of drawn examples and resampled splits.

    Raises:
        InputError: too few refusals to train on.
        TrainingError: the plain arm cannot be trained. Of another arm that cannot, the target does
            not comply.
    """
    advice = None
    with (
        recorded(context),
        arms_in_workers(
            context.plan, context.run.folder, context.progress,
            workers=workers, make_one=make_contained,
        ) as together,
    ):  # fmt: skip
        baseline = establish(context)
        write_gate(context, baseline)
        context = with_enough_deflections(context, baseline)
        if context.plan.unlearns:
            design = _possible(context, baseline, design)
            told = describe_study(context.changed(plan=with_arms_of(context.plan, design)))
            write_json(context.run.folder / "config.json", told)
            advice = _contained(context, baseline, design, together, shallow_recovery, seed)
    with context.progress.stage("tables, figures, report"):
        write_report(context.run.folder, processes=workers.processes)
    require_arms(context)
    if advice is None:
        require_trained(read_run(context.run.folder))
    assert advice is not None, "a design whose target was left out has no arms"
    return advice


def with_arms_of(plan: StudyPlan, design: Design) -> StudyPlan:
    """The plan with the arms of a design, whose splits have other numbers if some were left out."""
    arms = {arm.name: arm for arm in (*plan.arms, *design.everything())}
    return replace(plan, arms=tuple(arms.values()))


def _possible(context: Context, baseline: Baseline, design: Design) -> Design:
    """The design without the methods that lack what they read; checked before arms are trained."""
    if context.left_out:
        design = design.without([n for n in context.left_out if n != design.concept])
    if baseline.prefixes is None:
        design = _saying(context, design, design.by_text(), "they need refusal log-odds")
    contrasted = evidence_of(context, baseline, design.training).contrasted
    few = "a domain whose states they read has too few harmful or benign training prompts"
    return _saying(context, design, design.contrasting(contrasted), few)


def _saying(context: Context, design: Design, kept: Design, why: str) -> Design:
    if absent := [name for name in design.methods if name not in kept.methods]:
        context.progress.say(f"left out, because {why}: {', '.join(absent)}")
    return kept


def _contained(
    context: Context,
    baseline: Baseline,
    design: Design,
    together: MakeTogether,
    shallow_recovery: bool,
    seed: int,
) -> Advice | None:
    """The advice; None if the plain arm, with which all others are compared, cannot be trained."""
    _rank(context, baseline, design, seed)
    require_replaceable(context, baseline, design.everything())

    def made(arms: Sequence[ArmPlan]) -> None:
        for arm in together(with_arms_of(context.plan, design), arms):
            attempt_arm(context, baseline, arm)

    made([design.plain])
    if _failed(context, design.plain):
        return None
    weights = {}
    for name, by_weight in design.weighing().items():
        tried = dict(zip(sorted(design.weights), by_weight, strict=True))

        def recovery(weight: float, tried: dict[float, list[ArmPlan]] = tried) -> float | None:
            made(tried[weight])
            return retained_recovery(_kept(context, design, tried[weight], validation=True))

        weights[name] = find_weight(design.weights, recovery)
        context.progress.say(f"{name}: weight {weights[name]:g}, by the retained domains")
    arms = design.arms(weights)
    made(arms)
    advice = write_containment(context, design, arms, seed=seed)
    chosen = next((arm for arm in arms if advice.key and key_of(arm) == advice.key), None)
    if chosen is not None:
        whole = design.whole(chosen)
        made([whole])
        sentences = list(advice.sentences)
        why = _failed(context, whole)
        found = f"cannot be trained: {why}" if why else f"is arms/{whole.name}"
        sentences.append(f"Its arm with every other domain retained {found}.")
        if shallow_recovery and not why:
            sentences += _shallow_recovery(context, baseline, design, whole, seed)
        advice = replace(advice, sentences=tuple(sentences))
        path = context.run.folder / FOLDER / "containment.json"
        write_json(path, read_json(path) | {"advice": sentences})
    return advice


def make_contained(plan: StudyPlan, out: Path, name: str, threads: int) -> str:
    """Make one arm in a worker; importing this module registers the methods."""
    return make_planned(plan, out, name, threads)


def _shallow_recovery(
    context: Context, baseline: Baseline, design: Design, whole: ArmPlan, seed: int
) -> list[str]:
    """Run the shallow-recovery tests on the recommended arm; return their sentences."""
    from analyses.contain.shallow_recovery.figures import shallow_recovery_figure
    from analyses.contain.shallow_recovery.measure import measure_shallow_recovery
    from analyses.figures import Drawing, write_results

    if (prefixes := baseline.prefixes) is None:
        return ["The shallow-recovery tests need refusal prefixes, and this model has none."]
    folder = context.run.folder / FOLDER
    settings = replace(design.training, max_steps=min(design.training.max_steps, RELEARNING))
    with context.progress.stage("shallow-recovery tests: prefill, triggers, relearning", None):
        found = measure_shallow_recovery(
            context.reference,
            load_made(context, design.plain),
            {"contained": load_made(context, whole)},
            context.prompts,
            prefixes,
            context.scorer,
            design.concept,
            forget=list(mixture_of(context, baseline, design.plain).forget),
            settings=settings,
            max_new_tokens=context.plan.max_new_tokens,
            batch_size=context.plan.batch_size,
            seed=seed,
        )
    drawing = Drawing("residue", "", "", shallow_recovery_figure(found), found.to_dataframe())
    write_results(folder, tables=found.tables, drawings=[drawing], figures="")
    return found.sentences


def write_containment(
    context: Context, design: Design, arms: Sequence[ArmPlan], *, seed: int
) -> Advice:
    """Tables, figure and advice from finished arms."""
    from analyses.contain.figures import containment_study_figure
    from analyses.figures import Drawing, write_results

    with context.progress.stage("outcomes of the arms"):
        chosen_on = pool_splits(_kept(context, design, arms, validation=True), seed=seed)
        kept = _kept(context, design, arms)
        told = pool_splits(kept, seed=seed)
    advice = advise(chosen_on, told)
    folder = context.run.folder / FOLDER
    tables = {"arms": arms_table(kept), "methods": methods_table(told)}
    figure: Figure = containment_study_figure(tables["methods"], advice.key)
    drawing = Drawing("containment", "", "", figure, tables["methods"])
    facts = {"containment": _described(context, design, tables, advice)}
    write_results(folder, tables=tables, facts=facts, drawings=[drawing], figures="")
    return advice


def _rank(context: Context, baseline: Baseline, design: Design, seed: int) -> None:
    absent = (design.concept, *design.left_out)
    others = [d for d in present_domains(context.prompts) if d not in absent]
    rows = pool_of(context, baseline, others)

    def ranked() -> pd.DataFrame:
        evidence = evidence_of(context, baseline, design.training)
        with context.progress.stage(f"ranking {len(rows)} retained examples"):
            return rank_examples(evidence, design.concept, rows, design.methods, seed=seed)

    forgotten = context.pairs
    if forgotten is None:
        forgotten = deflections_of(context, baseline, design.concept)
    code = [METHODS.own_source(name) for name in design.methods]
    key = content_key(
        "predictions", baseline.inputs.key, baseline.prefixes and asdict(baseline.prefixes),
        design.concept, list(rows["id"]), list(rows["response"]), design.methods, code,
        design.training.described(), seed, list(forgotten["prompt"]), list(forgotten["response"]),
    )  # fmt: skip
    kept_table(context.run.folder / RANKING, key, ranked)


def _kept(
    context: Context, design: Design, arms: Sequence[ArmPlan], *, validation: bool = False
) -> list[Kept]:
    record = read_run(context.run.folder)
    names = {arm.name for arm in arms}

    def seen(arm: Arm) -> Arm:
        return arm.on_validation() if validation else arm

    found = {arm.name: seen(arm) for arm in record.arms if arm.name in names | {design.plain.name}}
    looked_at = replace(record, base=seen(record.base))
    contained = [arm for name, arm in found.items() if name in names]
    resamples = {"resamples": 200} if validation else {}
    kept = kept_by(looked_at, contained, found[design.plain.name], **resamples)
    for arm in arms:
        if why := record.failed.get(arm.name):
            assert arm.containment is not None
            kept.append(Kept.untrained(arm.name, key_of(arm), arm.containment.split, why))
    return kept


def _failed(context: Context, arm: ArmPlan) -> str | None:
    """The reason for which an arm cannot be trained; None if it can."""
    return read_run(context.run.folder, only=[arm.name]).failed.get(arm.name)


def _described(
    context: Context, design: Design, tables: dict[str, pd.DataFrame], advice: Advice
) -> dict[str, object]:
    methods = tables["methods"]
    return {
        "concept": design.concept,
        "model": context.plan.model,
        "command": context.plan.command,
        "splits": [{"retained": kept, "held_out": out} for kept, out in design.splits],
        "training": design.training.described(),
        "methods": methods.astype(object).where(methods.notna(), None).to_dict("records"),
        "titles": {name: METHODS[name].about.title for name in methods["method"].unique()},
        "recommended": containment_label(advice.key) if advice.key else None,
        "advice": list(advice.sentences),
    }


def key_of(arm: ArmPlan) -> Key:
    """A contained arm's containment settings, in the form of its outcome."""
    assert arm.containment is not None
    weight = arm.settings.retain_weight if arm.containment.how.weighted else None
    return arm.containment.method, arm.containment.examples, weight
