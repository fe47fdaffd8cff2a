"""``spillover evaluate MODEL``: refusal, over-refusal and coherence of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses import options as shared
from analyses.commands import COMMAS, DryRun, command, command_line, opt
from interp.errors import InputError

if TYPE_CHECKING:
    from analyses.evaluate.measures import Measures
    from analyses.evaluate.plan import TaskPlan


@dataclass(frozen=True)
class UtilityOptions:
    """Options for other losses: perplexity and tasks."""

    texts: Path | None = opt(
        None,
        "Texts whose perplexity is measured: JSONL, CSV or parquet with a column text, or a .txt "
        "file (default: none).",
    )
    tasks: list[str] | None = opt(
        None,
        "Tasks of the LM Evaluation Harness, e.g. mmlu_philosophy; may be repeated (default: "
        "none).",
        metavar=COMMAS,
    )
    task_folder: Path | None = opt(
        None, "Folder of YAML files that define your own tasks (default: none)."
    )
    task_chat: bool = opt(False, "Put tasks into the chat format; without it they are plain text.")
    task_limit: int | None = opt(
        None, "Number of items of each task, the first ones (default: all).", min=1
    )
    few_shot: int | None = opt(
        None, "Number of solved examples before each item (default: the task's own).", min=0
    )

    def task_plan(self) -> TaskPlan | None:
        """The plan of the given tasks, if any."""
        from analyses.evaluate.plan import TaskPlan

        names = tuple(name for given in self.tasks or () for name in given.split(",") if name)
        if not names:
            if self.task_folder:
                raise InputError("--task-folder holds tasks; name those to run with --tasks")
            return None
        if self.task_folder and not self.task_folder.is_dir():
            raise InputError(f"--task-folder {self.task_folder}: folder not found")
        folder = str(self.task_folder) if self.task_folder else None
        return TaskPlan(names, self.task_chat, folder, self.few_shot, self.task_limit)


@command
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            callback=shared.known_model,
            help=f"{shared.MODEL} With --server, the name it is served by.",
        ),
    ],
    *,
    prompts: shared.Prompts = None,
    base: str | None = opt(
        None,
        "The model before unlearning, to compare with (default: no comparison).",
        callback=shared.known_model,
    ),
    scorer: list[str] | None = opt(
        None,
        "Scorer of the answers; may be repeated; the first is the headline (default: panel and its "
        "members; grammar for a model organism): {unlearning.scoring:scorer}.",
    ),
    server: shared.Server = None,
    split: list[str] | None = opt(
        None,
        "Split to count: train, validation or test; may be repeated (default: all). Take test if "
        "the model was trained on the others.",
    ),
    utility: UtilityOptions,
    chat: shared.ModelOptions,
    max_new_tokens: shared.AnswerTokens = None,
    batch_size: shared.BatchSize = 64,
    positions: int = opt(
        8, "Number of answer tokens over which KL to the base is averaged.", min=1
    ),
    out: shared.Out = Path("runs/evaluate-MODEL"),
    show_completions: shared.ShowCompletions = False,
    overwrite: shared.Overwrite = False,
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Measures | DryRun:
    """Measure what a model refuses, rightly and wrongly, and whether its answers are coherent.

    It works offline.
    """
    from analyses.evaluate.plan import (
        EvaluationPlan,
        checked_evaluation,
        evaluation_costs,
        evaluation_plan_lines,
        require_own_folder,
    )

    asked = EvaluationPlan(
        model,
        prompts=str(prompts) if prompts else None,
        base=base,
        scorers=tuple(scorer or ()),
        server=server,
        splits=tuple(split or ()),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        positions=positions,
        texts=str(utility.texts) if utility.texts else None,
        tasks=utility.task_plan(),
        model_options=chat.for_loading(),
        command=command_line(),
    )
    inputs = checked_evaluation(asked)
    require_own_folder(asked, out, overwrite=overwrite)
    estimate = evaluation_costs(inputs, timing=timing)
    costs = estimate.lines() if estimate else []
    planned = DryRun(asked, (*evaluation_plan_lines(inputs), *costs))
    if dry_run:
        return planned
    typer.echo(planned, err=True)
    from analyses.costs import watched
    from analyses.evaluate.engine import find_out
    from analyses.evaluate.page import write_evaluation
    from analyses.evaluate.words import evaluation_text
    from analyses.runs import Progress, RunFolder

    progress = Progress()
    announced = estimate.to_json() if estimate else None
    with RunFolder(out).locked(), watched(out, announced, anew=overwrite):
        findings = find_out(inputs, out, progress)
        with progress.stage("tables, figures, report"):
            page, measures = write_evaluation(
                findings, inputs, out, show_completions=show_completions
            )
    typer.echo(evaluation_text(measures, page))
    return measures
