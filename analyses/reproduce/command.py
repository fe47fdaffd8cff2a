"""``spillover reproduce PAPER``: a published protocol as a preset, compared with its numbers."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses import options as shared
from analyses.commands import DryRun, command, command_line, opt
from analyses.evaluate import UtilityOptions
from interp.errors import InputError, expected

if TYPE_CHECKING:
    import pandas as pd

    from analyses.costs import CostEstimate
    from analyses.reproduce.plan import Planned, ProtocolOptions
    from analyses.reproduce.result import Result

PAPERS = ("mushtaq2025",)
GIVE_YES = "this is the plan; nothing has run; give --yes to run it"


@dataclass(frozen=True)
class GridOptions:
    """Values that replace the paper's; the page lists them."""

    lora_rank: int | None = opt(
        None, "Rank of the LoRA adapters; alpha equals it (default: 128).", min=1
    )
    learning_rate: shared.LearningRate = None
    epochs: int | None = opt(None, "Number of passes over the forget set (default: 10).", min=1)
    batch_size: shared.TrainBatch = None
    retain_ratio: int | None = opt(
        None, "Number of retain examples per forget example (default: 1).", min=1
    )

    def axes(self) -> dict[str, tuple[Any, ...]]:
        """Axes of the grid with one given value each."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return {
            f"{name.removeprefix('lora_').removesuffix('s')}s": (value,)
            for name, value in given.items()
        }


@dataclass(frozen=True)
class MemoryOptions:
    """Options that fit a large model into memory."""

    micro_batch_size: shared.MicroBatch = None
    gradient_checkpointing: shared.GradientCheckpointing = False
    autocast: shared.Autocast = False
    checkpoint_every: shared.CheckpointEvery = shared.CHECKPOINT_EVERY


@command
def reproduce(
    paper: Annotated[
        str, typer.Argument(help=f"Paper whose protocol is repeated: {', '.join(PAPERS)}.")
    ],
    model: shared.Model,
    setting: GridOptions,
    memory: MemoryOptions,
    made: shared.WorkerOptions,
    utility: UtilityOptions,
    chat: shared.ModelOptions,
    concept: list[str] | None = opt(
        None,
        "Domain whose refusals are unlearned; may be repeated (default: the paper's cybersecurity "
        "and safety).",
    ),
    prompts: shared.Prompts = None,
    out: shared.Out = Path("runs/PAPER-MODEL"),
    grid: bool = opt(
        False, "Train all 36 settings of the paper (108 with retain data), not one.", "--grid"
    ),
    forgetting_level: shared.ForgettingLevel = None,
    paper_model: str | None = opt(
        None,
        "Which of the paper's models a local folder holds: mistral or qwen (default: from the "
        "model's name).",
    ),
    scorer: shared.ScorerName = "auto",
    max_new_tokens: shared.AnswerTokens = None,
    seed: shared.Seed = 0,
    overwrite: shared.Overwrite = False,
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
    yes: bool = opt(False, "Run the plan without asking first.", "--yes"),
) -> Result | DryRun | None:
    """Repeat a paper's protocol and show its published numbers next to the measured ones.

    mushtaq2025 (Mushtaq et al. 2025, arXiv 2511.14017): NPO and fine-tuning, with and without
    retain data.

    The command prints its plan and asks before it begins. The same command resumes an
    interrupted run.
    """
    from analyses.study import refuse_launcher, require_model

    if paper not in PAPERS:
        raise InputError(f"unknown paper {paper!r}{expected(paper, PAPERS)}")
    require_model(model)
    tasks = utility.task_plan()
    others = [name for name in tasks.names if not name.startswith("mmlu")] if tasks else []
    if utility.texts or others:
        raise InputError(
            f"{', '.join(others) or '--texts'}: the paper uses MMLU only (--tasks mmlu_philosophy,"
            "...); `spillover evaluate` measures other losses"
        )
    refuse_launcher()
    from analyses.costs import watched
    from analyses.reproduce.engine import run_protocol
    from analyses.reproduce.page import PAGE
    from analyses.reproduce.plan import ProtocolOptions, planned
    from analyses.reproduce.protocol import MODELS, recognised
    from analyses.reproduce.words import reproduction_text
    from analyses.runs import Progress
    from analyses.study import require_workers
    from unlearning.utility import require_harness

    if tasks:
        require_harness()
    if paper_model is not None and paper_model not in MODELS:
        raise InputError(f"--paper-model {paper_model}{expected(paper_model, MODELS)}")
    study = {
        "scorer": scorer,
        "model_options": chat.for_loading(),
        "checkpoint_every": memory.checkpoint_every,
        "command": command_line(),
        "overwrite": overwrite,
    }
    asked = ProtocolOptions(
        model,
        MODELS[paper_model] if paper_model else recognised(model),
        tuple(concept or ()),
        str(prompts) if prompts else None,
        grid,
        forgetting_level,
        setting.axes(),
        {
            "micro_batch_size": memory.micro_batch_size,
            "activation_checkpointing": memory.gradient_checkpointing,
            "autocast": memory.autocast,
            "seed": seed,
        },
        study | ({"max_new_tokens": max_new_tokens} if max_new_tokens else {}),
        tasks,
    )
    table = _prompts(asked)
    first = planned(asked, table)
    require_workers(first.study, made)
    costs, estimate = protocol_costs(asked, first, table, timing=timing)
    shown = DryRun(asked, (*protocol_plan_lines(asked, first, table), *costs))
    if dry_run:
        return shown
    typer.echo(shown, err=True)
    if not (yes or _confirmed()):
        return None
    with watched(out, estimate.to_json(), anew=overwrite):
        found = run_protocol(asked, table, out, Progress(), workers=made)
    typer.echo(reproduction_text(found, out / PAGE))
    return found


def protocol_plan_lines(asked: ProtocolOptions, first: Planned, prompts: pd.DataFrame) -> list[str]:
    """The lines of the plan without its cost; before phase 1 its numbers are upper bounds."""
    from analyses.reproduce.published import SOURCE
    from analyses.reproduce.words import arm_label, left_out_words

    known = asked.known
    lines = [
        f"paper: {SOURCE}",
        f"model: {asked.model}"
        + (f", the paper's {known.name}" if known else ", not a model of the paper"),
        f"prompts: {len(prompts)}, {asked.prompts or asked.defaults.prompts_name}",
        *(f"not as in the paper: {departure}" for departure in asked.departures),
    ]
    for key in dict.fromkeys(one.arm for one in first.arms):
        points = [one for one in first.arms if one.arm == key]
        training = points[0].plan.settings
        what = f"{len(points)} settings" if len(points) > 1 else points[0].setting.words
        lines.append(
            f"arm {arm_label(*key)}: {what}; {training.max_steps} steps on "
            f"{first.deflections[key[0]]} deflections, both at most"
        )
    lines += [f"left out: {one}" for one in left_out_words(first.left_out)]
    if asked.tasks:
        lines.append(f"tasks: {', '.join(asked.tasks.names)}, of the original model and every arm")
    return lines


def protocol_costs(
    asked: ProtocolOptions, first: Planned, prompts: pd.DataFrame, *, timing: bool = True
) -> tuple[list[str], CostEstimate]:
    """Work, memory and time, in lines and in numbers."""
    from analyses.costs import Weights
    from analyses.study import study_costs

    known = asked.known
    weights = Weights(known.parameters, 2 * known.parameters) if known else None  # bfloat16
    return study_costs(first.study, prompts, timing=timing, weights=weights)


def _prompts(asked: ProtocolOptions) -> pd.DataFrame:
    from analyses.study import StudyPlan, prompts_of

    return prompts_of(StudyPlan(asked.model, (), prompts=asked.prompts))


def _confirmed() -> bool:
    """Ask in the terminal whether to run the plan.

    Raises:
        InputError: the command does not run in a terminal.
    """
    if not sys.stdin.isatty():
        raise InputError(GIVE_YES)
    return typer.confirm("Run this plan?", err=True)
