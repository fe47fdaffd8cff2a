"""``spillover deflect``: phase 1 by itself."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from analyses.options import ModelOptions, expanded


@expanded
def deflect(
    model: Annotated[str, typer.Argument(help="Hub id, model folder or adapter folder.")],
    concept: Annotated[str, typer.Option(help="Domain whose refusals are wanted.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the data set.")],
    chat: ModelOptions,
    prompts: Annotated[
        Path | None, typer.Option(help="Prompts; an organism's own, or the built-in pairs.")
    ] = None,
    scorer: Annotated[str, typer.Option(help="auto, or one that `score` knows.")] = "auto",
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    samples: Annotated[int, typer.Option(min=1, help="Answers to each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Of an answer; 48.")] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Halved by itself where it does not fit.")
    ] = 64,
    server: Annotated[
        str | None, typer.Option(help="An OpenAI-compatible server (vLLM) that has MODEL.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be done, and stop.")
    ] = False,
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
