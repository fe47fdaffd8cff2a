"""``spillover explain``: find the causes of lost refusals in a finished run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import COMMAS, DryRun, command, opt
from analyses.options import BatchSize, DryRunOnly, Seed, Timing

if TYPE_CHECKING:
    import pandas as pd


@command
def explain(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a run that keeps the weights of its arms.")
    ],
    arm: list[str] | None = opt(
        None,
        "Arm to explain; may be repeated (default: every finished arm that keeps its weights, "
        "without control arms).",
    ),
    layers: str | None = opt(
        None,
        "Layers to examine, from 0, e.g. 4,8,12, or all; with some layers only, the cause may lie "
        "elsewhere (default: all; in a large model five, and those between two of them where the "
        "loss may enter the states).",
        metavar=COMMAS,
    ),
    max_prompts: int | None = opt(
        None,
        "Most harmful prompts of a domain to read; 0 for all (default: all; 16 in a large model, "
        "one of more than 20 million weights).",
        min=0,
    ),
    draws: int | None = opt(
        None,
        "Number of random moves of the same size per cause; they form its null (default: 100; in "
        "a large model 20, for the leading cause alone).",
        min=20,
    ),
    place_draws: int | None = opt(
        None,
        "Number of random edits per module and position; 0, or at least 19 (default: 20; 0 in a "
        "large model).",
        min=0,
    ),
    batch_size: BatchSize = 64,
    seed: Seed = 0,
    timing: Timing = True,
    dry_run: DryRunOnly = False,
) -> pd.DataFrame | DryRun:
    """Find the change that carries each loss of refusal: rotation, gain, offset or routing.

    A domain that was explained from the same inputs before is skipped.
    """
    from analyses.explain.explaining import explain_run, parse_layers, plan_lines, planned_losses

    wanted = parse_layers(layers)
    if dry_run:
        asked = {
            "layers": wanted, "read": max_prompts, "draws": draws, "place_draws": place_draws,
            "batch_size": batch_size,
        }  # fmt: skip
        lines = plan_lines(folder, arm or (), asked, timing=timing)
        return _planned(planned_losses(folder, arm or ()), lines, folder)
    table = explain_run(
        folder, arms=arm or (), layers=wanted, prompts=max_prompts, draws=draws,
        place_draws=place_draws, batch_size=batch_size, seed=seed, timing=timing,
    )  # fmt: skip
    typer.echo("\n".join([*table["sentence"], str(folder / "causes")]))
    return table


def _planned(
    losses: Mapping[str, Mapping[str, float] | None],
    plans: Mapping[str, Sequence[str]],
    folder: Path,
) -> DryRun:
    """The losses that would be explained, and what this needs, by arm."""
    lines = []
    for arm, lost in losses.items():
        if lost is None:
            said = "left out, because the run does not hold its weights"
        else:
            said = ", ".join(f"{domain} lost {nats:.1f} nats" for domain, nats in lost.items())
        lines.append(f"{arm}: {said or 'no domain lost refusal log-odds'}")
        lines += [f"{arm}: {line}" for line in plans.get(arm, ())]
    return DryRun(losses, (*lines, f"results: {folder / 'causes'}"))
