"""Run the paper's protocol (phase 1, arms, tasks, R3) and write all results.

The run's folder is that of a study, so ``spillover report``, ``explain`` and ``tournament`` read
it. The same command resumes an interrupted run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from analyses.evaluate import task_scores
from analyses.options import ALONE, WorkerOptions
from analyses.reproduce.choice import grid_table
from analyses.reproduce.comparison import (
    derived_table,
    entanglement_skill,
    measured_in,
    models_beside,
    scores_table,
)
from analyses.reproduce.entanglement import entanglement
from analyses.reproduce.page import write_reproduction
from analyses.reproduce.plan import Planned, ProtocolOptions, planned
from analyses.reproduce.protocol import SAMPLES_PER_CONCEPT
from analyses.reproduce.result import Result
from analyses.runs import BASE, Progress, RunRecord, read_run
from analyses.study import (
    Baseline,
    Context,
    arms_in_workers,
    establish,
    make_arms,
    recorded,
    require_replaceable,
    require_trained,
    study_context,
)
from interp.activations import collect
from interp.model import LanguageModel
from interp.statistics import Estimate, mean_of
from interp.store import content_key
from unlearning.data import present_domains

FEWEST_STATES = 8  # per concept, for components of its halves


def run_protocol(
    asked: ProtocolOptions,
    prompts: pd.DataFrame,
    out: Path,
    progress: Progress,
    *,
    workers: WorkerOptions = ALONE,
) -> Result:
    """Run the protocol in the folder ``out`` and write the results.

    Raises:
        InputError: the model refuses a given concept too rarely, or a task cannot run.
        TrainingError: no arm can be trained; of several, those that cannot are left out.
    """
    first = study_context(planned(asked, prompts).study, out, progress)
    with first.run.locked():
        refused = _refusals(establish(first))
    plan = planned(asked, prompts, refused)
    del first  # its model is the same as the next one's
    context = study_context(plan.study, out, progress)
    with (
        recorded(context),
        arms_in_workers(plan.study, context.run.folder, progress, workers=workers) as together,
    ):
        baseline = establish(context)
        require_replaceable(context, baseline, plan.study.arms)
        make_arms(context, baseline, together)
        record = read_run(context.run.folder)
        plan = plan.without(record.failed)
        if not plan.arms:
            require_trained(record)
        found = _result(asked, plan, context, record)
    with progress.stage("tables, figures, page"):
        write_reproduction(found, out)
    return found


def _refusals(baseline: Baseline) -> dict[str, int]:
    """Number of deflections per domain on training prompts, from phase 1."""
    rows = baseline.responses
    kept = rows[
        (rows["split"] == "train") & (rows["label"] == "harmful") & (rows["class"] == "refusal")
    ]
    return {str(domain): int(n) for domain, n in kept["domain"].value_counts().items()}


def _result(asked: ProtocolOptions, plan: Planned, context: Context, record: RunRecord) -> Result:
    arms = {arm.name: arm for arm in record.arms}
    grid = grid_table(plan.arms, arms, record.base)
    names = set(grid.loc[grid["chosen"], "arm"])
    chosen = tuple(one for one in plan.arms if one.plan.name in names)
    accuracy = _accuracy(asked, context, [one.plan.name for one in chosen])
    measured = measured_in(record, context.prompts, chosen, plan.left_out, accuracy)
    models = models_beside(asked.known)
    layers = _entanglement(context)
    return Result(
        asked=asked,
        plan=plan,
        chosen=chosen,
        grid=grid,
        scores=scores_table(measured, models),
        derived=derived_table(measured, models),
        layers=layers,
        skill=entanglement_skill(layers, measured),
        n_layers=context.reference.n_layers,
        config=record.config,
    )


def _accuracy(
    asked: ProtocolOptions, context: Context, names: Sequence[str]
) -> Mapping[str, Estimate]:
    """Percent right on the tasks, of the base and of every reported arm."""
    if asked.tasks is None:
        return {}
    found = {}
    for name in (BASE, *names):
        arm = context.run.folder / "arms" / name

        @contextmanager
        def model(arm: Path = arm) -> Iterator[LanguageModel]:
            kept = arm / "adapter" if (arm / "adapter").is_dir() else arm / "model"
            yield context.reference if arm.name == BASE else context.load(kept)

        context.progress.say(f"{name}: tasks …")  # the harness shows its own progress
        key = content_key(
            "tasks", "tasks", (arm / "DONE").read_text(encoding="utf-8"), asked.tasks,
            *asked.tasks.files,
        )  # fmt: skip
        path = context.run.folder / "tasks" / f"{name}.parquet"
        table = task_scores(asked.tasks, path, key, model)
        metric = "acc" if (table["metric"] == "acc").any() else table["metric"].iloc[0]
        values = 100 * table.loc[table["metric"] == metric, "value"].to_numpy(dtype=float)
        found[name] = mean_of(values, stratum="tasks")
    return found


def _entanglement(context: Context) -> pd.DataFrame:
    """R3 between the concepts, from the base model's states on training prompts, every layer."""
    rows = context.prompts
    rows = rows[(rows["label"] == "harmful") & (rows["split"] == "train")]
    texts = {
        domain: list(rows.loc[rows["domain"] == domain, "prompt"].head(SAMPLES_PER_CONCEPT))
        for domain in present_domains(rows)
    }
    texts = {domain: few for domain, few in texts.items() if len(few) >= FEWEST_STATES}
    lm = context.reference
    states = {}
    with context.progress.stage("R3: states", sum(map(len, texts.values()))) as advance:
        for domain, prompts in texts.items():
            states[domain] = collect(
                lm, prompts, batch_size=context.plan.batch_size, progress=advance
            ).states
    tables = []
    with context.progress.stage("R3: components and null", lm.n_layers) as advance:
        for layer in range(lm.n_layers):
            found = entanglement({domain: one[:, layer] for domain, one in states.items()})
            tables.append(found.to_dataframe().assign(layer=layer))
            advance(1)
    return pd.concat(tables, ignore_index=True)
