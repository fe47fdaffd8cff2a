"""``spillover organism``: train a model organism from scratch, or teach a pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses import options as shared
from analyses.commands import COMMAS, HELP, Command, DryRun, command, opt

if TYPE_CHECKING:
    from analyses.organism.teaching import Taught

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, context_settings=HELP
)


@app.callback()
def organisms() -> None:
    """Make a model organism from scratch, or teach a pretrained chat model to refuse."""


@command
def organism_train(
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            max=shared.MOST_SEED,
            help="Seed of the synthetic language, the weights and the order of the data.",
        ),
    ],
    out: Path = opt(
        Path("runs/organism-SEED"), "Folder of the checkpoint; SEED stands for the seed."
    ),
    recipe: str | None = opt(
        None,
        "How it is trained: gated, so that one direction carries refusal in both ways (the "
        "packaged model organism), or ungated (organism:ungated) (default: gated).",
        metavar="<gated|ungated>",
    ),
    circuits: str | None = opt(
        None,
        "Learn to refuse in low-rank slices, one for each domain: shared (every row trains all "
        "slices) or routed (a refusal trains its domain's slice), and check them (default: no "
        "slices; all weights are trained).",
        metavar="<shared|routed>",
    ),
    overwrite: shared.Overwrite = False,
    dry_run: shared.DryRunOnly = False,
) -> Path | DryRun:
    """Train a model organism from scratch (minutes on two cores)."""
    from analyses.runs import Progress
    from unlearning.organism import GATED, recipe_of, slice_check_of, train

    followed = recipe_of(recipe, circuits)
    named, stages = recipe or (GATED if circuits is None else "slices"), followed.stages
    steps = " and ".join(f"{one.steps} steps of {one.batch_size} prompts" for one in stages)
    planned = DryRun(
        {"seed": seed, "recipe": named, "circuits": circuits},
        (
            f"model organism: seed {seed}; recipe: {named}; circuits: {circuits or 'all weights'}",
            f"training: {steps}; some minutes of one core",
        ),
    )
    if dry_run:
        return planned
    progress = Progress()
    with progress.stage(f"model organism {seed}: training", None) as advance:
        train(
            seed,
            out,
            recipe=followed,
            overwrite=overwrite,
            progress=lambda _step, _total, _loss: advance(1),
        )
    if circuits is not None:
        typer.echo(slice_check_of(out))
    typer.echo(out)
    return out


@command
def organism_teach(
    model: shared.Model,
    model_options: shared.ModelOptions,
    out: shared.Out = Path("runs/taught-MODEL"),
    prompts: Path | None = opt(
        None,
        "File of further prompts (JSONL, CSV or parquet) with the columns prompt, domain and "
        "label (default: the built-in matched pairs alone).",
        "--prompts",
    ),
    built_in: bool = opt(
        True, "Also teach the built-in pairs where --prompts is given (default: yes)."
    ),
    concept: str | None = opt(
        None, "Domains that the model learns to refuse (default: all).", metavar=COMMAS
    ),
    prefixes: str = opt(
        "shared",
        "Prefixes of refusals: shared by all domains, or separate for each.",
        metavar="<shared|separate>",
    ),
    circuits: str = opt(
        "shared",
        "Low-rank slices of the adapters: shared (all rows train all slices) or routed (a "
        "domain's rows train its own slice).",
        metavar="<shared|routed>",
    ),
    minutes: float = opt(40, "Time limit of training, in minutes; answering comes on top."),
    max_steps: int = opt(600, "Maximum number of optimizer steps.", min=1),
    learning_rate: float = opt(8e-4, "Peak learning rate; it falls to the end of training.", min=0),
    batch_size: int = opt(8, "Number of harmful prompts, and of benign ones, in each step.", min=1),
    lora_rank: int = opt(
        16, "Least rank of the adapters, which is divided equally among the domains.", min=1
    ),
    floor: float = opt(
        0.1, "Share of responses to harmful prompts that comply, without content.", min=0
    ),
    autocast: shared.Autocast = False,
    seed: shared.Seed = 0,
    overwrite: shared.Overwrite = False,
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Taught | DryRun:
    """Teach a pretrained chat model to refuse harmful prompts; it becomes an ordinary checkpoint.

    The same command resumes an interrupted run.
    """
    from analyses.costs import watched
    from analyses.organism.plan import (
        Teaching,
        TeachPlan,
        checked_teaching,
        teach_costs,
        teach_plan_lines,
    )
    from analyses.organism.teaching import require_free, teach_refusal
    from analyses.runs import Progress

    teaching = Teaching(
        prefixes=prefixes,
        circuits=circuits,
        minutes=minutes,
        steps=max_steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        lora_rank=lora_rank,
        floor=floor,
        autocast=autocast,
        seed=seed,
    )
    plan = TeachPlan(
        model,
        teaching,
        prompts=str(prompts) if prompts else None,
        built_in=built_in,
        concepts=shared.listed(concept),
        model_options=model_options.for_loading(),
    )
    require_free(out, plan.settings, overwrite=overwrite)
    table = checked_teaching(plan)
    estimate = teach_costs(plan, table, timing=timing)
    planned = DryRun(plan, (*teach_plan_lines(plan, table), *estimate.lines()))
    if dry_run:
        return planned
    typer.echo(planned, err=True)
    with watched(out, estimate.to_json(), anew=overwrite):
        taught = teach_refusal(plan, out, Progress(), prompts=table, overwrite=overwrite)
    typer.echo(taught)
    return taught


_made: Any
for _name, _made in (("train", organism_train), ("teach", organism_teach)):
    app.command(_name, cls=Command, context_settings=HELP)(_made.flat)
