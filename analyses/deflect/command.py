"""``spillover deflect``: phase 1 by itself."""

from __future__ import annotations

import shlex
import sys
from typing import Annotated

import typer

from analyses.options import (
    AnswerTokens,
    BatchSize,
    Model,
    ModelOptions,
    Out,
    PlanOnly,
    Prompts,
    ScorerName,
)


def deflect(
    model: Model,
    concept: Annotated[str, typer.Option(help="Domain whose refusals are wanted.")],
    out: Out,
    chat: ModelOptions,
    prompts: Prompts = None,
    scorer: ScorerName = "auto",
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    max_new_tokens: AnswerTokens = None,
    batch_size: BatchSize = 64,
    server: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server (vLLM) that has MODEL.")
    ] = None,
    plan: PlanOnly = False,
) -> None:
    """Collect a model's refusals, and say how diverse they are. The same command goes on."""
    from analyses.deflect import engine
    from analyses.deflect.plan import DeflectPlan, checked_deflection, deflection_plan_lines
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
        command=shlex.join(["spillover", *sys.argv[1:]]),
    )
    for line in deflection_plan_lines(asked, checked_deflection(asked, out)):
        typer.echo(line, err=True)
    if not plan:
        typer.echo(engine.run_deflection(asked, out, Progress()).text())
