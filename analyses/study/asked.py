"""From a command's options to a plan, and from a plan to its run. Imports little, for --help."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from analyses.commands import DryRun, command_line
from analyses.options import ALONE, ModelOptions, WorkerOptions
from analyses.study.launcher import leads, processes
from analyses.training_options import TrainingOptions
from interp import plugins
from interp.errors import InputError
from interp.store import read_json, read_table

if TYPE_CHECKING:
    from analyses.runs import Run
    from analyses.study.context import Context
    from analyses.study.plan import ArmPlan, StudyPlan
    from analyses.study.work import Counted
    from unlearning.training import TrainingSettings


def study_plan(
    model: str,
    concepts: Sequence[str] | None,
    training: TrainingOptions,
    chat: ModelOptions,
    prompts: Path | None,
    deflections: Path | None,
    *,
    seeds: Sequence[int],
    control: bool,
    search: bool = False,
    objectives: Sequence[str] = (),
    **given: Any,
) -> StudyPlan:
    """The plan of a study; missing settings are those of the model organism, or the defaults.

    Args:
        concepts: domains to unlearn; if empty, all domains with harmful prompts.
        search: try several retain weights where the user gives none.
        objectives: replace ``training.objective``; each runs with every concept and seed.
        given: attributes of the plan; ``None`` keeps the plan's value.

    Raises:
        InputError: the model, a domain or an option cannot be used.
    """
    from analyses.study.plan import StudyPlan, parse_retain, unlearning_arms, weights_to_try
    from analyses.study.resolve import defaults_for, require_model
    from interp.directions import ESTIMATORS
    from unlearning.data import present_domains, require_concepts

    if training.retain is None and (training.retain_weight or training.adaptive):
        raise InputError(
            "--retain-weight and --adaptive weigh the loss on a retain set; give --retain with "
            "them, e.g. --retain equal"
        )
    require_model(model)
    if training.objective_file is not None:
        plugins.use(training.objective_file)
        plugins.load_all()
    ESTIMATORS.find(given.get("estimator") or "mean_difference")
    own = defaults_for(model)
    asked = StudyPlan(
        model,
        (),
        prompts=str(prompts) if prompts else None,
        deflections=str(deflections) if deflections else None,
        model_options=chat.for_loading(),
        command=command_line(),
        **{**own.study, **{name: value for name, value in given.items() if value is not None}},
    )
    table = own.prompts(asked.prompts)
    present = present_domains(table)
    concepts = tuple(dict.fromkeys(concepts or present))
    require_concepts(table, concepts)
    if deflections and len(concepts) > 1:
        raise InputError("--deflections holds one concept's pairs; give one --concept with it")
    arms: list[ArmPlan] = []
    for number, objective in enumerate(dict.fromkeys(objectives or (training.objective,))):
        settings = replace(training, objective=objective).settings(own.training)
        given_weights = training.retain_weight or (None if search else [1.0])
        weights, settings = weights_to_try(given_weights, training.retain_unit, settings)
        arms += unlearning_arms(
            concepts,
            settings,
            seeds=seeds,
            retain={c: parse_retain(training.retain, c, present) for c in concepts},
            weights=weights,
            control=control and not number,
        )
    return replace(asked, concepts=concepts, arms=tuple(arms))


def check(
    plan: StudyPlan,
    out: Path,
    dry_run: bool,
    more: Sequence[str] = (),
    *,
    timing: bool = True,
    gradients: TrainingSettings | None = None,
    streamed: bool = False,
    counted: Counted | None = None,
    most: int | None = None,
    more_models: int = 0,
) -> Context | DryRun:
    """Check the plan's inputs and print them (and more lines); a dry run returns them instead.

    Args:
        timing: measure some steps on the device for the plan's time.
        gradients: where gradients are taken for a forecast: of what would be trained.
        streamed: whether the forecast stores no gradients.
        counted: counts the work of a plan, where that is not all its arms.
        most: maximum number of arms that are made, where that is not all of them.
        more_models: that are on the device with the base and the trained one.
    """
    from analyses.runs import Progress
    from analyses.study.context import study_context
    from analyses.study.costs import study_costs, study_plan_lines
    from analyses.study.fitting import fitted
    from analyses.study.work import work_of

    context = study_context(plan, out, Progress())
    small, chosen = fitted(context.plan, context.prompts, context.run, more_models=more_models)
    context = replace(context, plan=small)
    refuse_other_settings(context)
    costs, estimate = study_costs(
        context.plan,
        context.prompts,
        timing=timing,
        gradients=gradients,
        streamed=streamed,
        counted=counted or work_of,
        more_models=more_models,
    )
    lines = [*study_plan_lines(context.plan, context.prompts, most=most), *chosen, *costs]
    lines += [
        *context.left_out_lines,
        *context.contaminated_lines,
        *context.direction_lines,
        *more,
        f"results: {out}",
    ]
    planned = DryRun(context.plan, tuple(lines))
    if dry_run:
        return planned
    typer.echo(planned, err=True)
    return replace(context, expected=estimate.to_json())


def run_plan(
    plan: StudyPlan,
    out: Path,
    dry_run: bool,
    *,
    timing: bool = True,
    workers: WorkerOptions = ALONE,
    show_completions: bool = False,
) -> Run | DryRun:
    """Run a plan and print the path of its report; several workers make arms in parallel."""
    from analyses.study.workers import require_workers

    require_workers(plan, workers)
    if processes() > 1 and workers.are_used:
        raise InputError(
            "the processes of a launcher train one arm together; give --workers without a launcher"
        )
    if not leads():
        return _take_part(plan, out, dry_run)
    more = [f"workers: {workers.workers} arms at a time: less time, and the memory of each of them"]
    more *= workers.workers > 1
    context = check(plan, out, dry_run, more, timing=timing)
    if isinstance(context, DryRun):
        return context
    from analyses.costs import watched
    from analyses.runs import Run
    from analyses.study import engine as study
    from analyses.study.together import leading

    with leading(plan), watched(out, context.expected, anew=plan.overwrite):
        report = study.run_checked_study(
            context, workers=workers, show_completions=show_completions
        )
    typer.echo(report)
    return Run(out)


def trained(done: Run | DryRun) -> Run | DryRun:
    """The run of :func:`run_plan`.

    Raises:
        TrainingError: some of its arms cannot be trained.
    """
    from analyses.runs import Run
    from analyses.study.engine import require_trained

    if isinstance(done, Run):
        require_trained(done.record)
    return done


def _take_part(plan: StudyPlan, out: Path, dry_run: bool) -> Run | DryRun:
    """Train with the first process, which prints and writes everything."""
    from analyses.runs import Run
    from analyses.study.together import take_part

    if dry_run:
        return DryRun(plan, ())
    take_part(plan)
    return Run(out)


def refuse_other_settings(context: Context) -> None:
    """Refuse to replace finished results of a folder with results of other settings.

    Raises:
        InputError: the base model or an arm of the plan was finished there with other settings; not
            with ``--overwrite``.
    """

    from analyses.runs import PROMPT_FORECAST
    from unlearning.training import FITTING

    plan, folder = context.plan, context.run.folder
    if plan.overwrite:
        return
    config, prompts = folder / "config.json", folder / "prompts.parquet"
    if not any(folder.glob("arms/*/DONE")) or not (config.is_file() and prompts.is_file()):
        return
    # The model is known by its weights, which are in the keys of the arms: its name may change.
    pairs = [(read_json(config, ()), {"estimator": plan.estimator})]
    for arm in plan.arms:
        if (context.run.arm(arm.name) / "DONE").is_file():
            now = json.loads(json.dumps(arm.describe(plan.stop_at)))
            was = read_json(context.run.arm(arm.name) / "config.json", ())
            for one in (was, now):
                one.update(one.pop("training") or {})
            for chosen_later in ("selected", "reduction", *(["max_steps"] * arm.control)):
                del now[chosen_later]
            for name in FITTING & now.keys():
                del now[name]
            pairs.append((was, now))
    other = {name for was, now in pairs for name in was.keys() & now if was[name] != now[name]}
    held = read_table(prompts)
    told = [name for name in PROMPT_FORECAST if name in held and name not in context.prompts]
    held = held.drop(columns=told)
    if held.to_json(orient="records") != context.prompts.to_json(orient="records"):
        other.add("prompts")
    if other:
        raise InputError(
            f"{folder} holds results made with another {' and another '.join(sorted(other))}; "
            "give another --out, or --overwrite to replace them"
        )
