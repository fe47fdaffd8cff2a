"""``spillover deflect``: phase 1 alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses import options as shared
from analyses.commands import DryRun, command, command_line, opt

if TYPE_CHECKING:
    from analyses.deflect.data_set import Deflected


@command
def deflect(
    model: shared.Model,
    concept: Annotated[str, typer.Option(help="Domain whose refusals are collected.")],
    chat: shared.ModelOptions,
    prompts: shared.Prompts = None,
    out: shared.Out = Path("runs/deflect-MODEL-CONCEPT"),
    scorer: shared.ScorerName = "auto",
    temperature: float = opt(0.0, "Sampling temperature; 0 is greedy.", min=0),
    samples: int = opt(1, "Number of answers to each prompt.", min=1),
    seed: shared.Seed = 0,
    max_new_tokens: shared.AnswerTokens = None,
    batch_size: shared.BatchSize = 64,
    server: shared.Server = None,
    overwrite: shared.Overwrite = False,
    timing: shared.Timing = True,
    dry_run: shared.DryRunOnly = False,
) -> Deflected | DryRun:
    """Collect a model's refusals in one domain and measure how diverse they are.

    The same command resumes an interrupted run.
    """
    from analyses.costs import watched
    from analyses.deflect import engine
    from analyses.deflect.plan import (
        DeflectPlan,
        checked_deflection,
        deflection_costs,
        deflection_plan_lines,
    )
    from analyses.runs import Progress

    asked = DeflectPlan(
        model,
        concept,
        prompts=str(prompts) if prompts else None,
        scorer=scorer,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        server=server,
        model_options=chat.for_loading(),
        command=command_line(),
    )
    prompts_asked = checked_deflection(asked, out, overwrite=overwrite)
    estimate = None if server else deflection_costs(asked, prompts_asked, timing=timing)
    costs = estimate.lines() if estimate else []
    planned = DryRun(asked, (*deflection_plan_lines(asked, prompts_asked), *costs))
    if dry_run:
        return planned
    typer.echo(planned, err=True)
    with watched(out, estimate.to_json() if estimate else None, anew=overwrite):
        found = engine.run_deflection(asked, out, Progress(), overwrite=overwrite)
    typer.echo(found.text())
    return found
