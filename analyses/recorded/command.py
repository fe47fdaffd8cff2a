"""``spillover score``, ``agree`` and ``calibrate``: answers that are recorded already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.errors import InputError


def score(
    file: Annotated[Path, typer.Argument(help="Recorded answers: prompt, response, any more.")],
    out: Annotated[Path, typer.Option(help="JSONL: every field kept, the scale's fields added.")],
    scorer: Annotated[
        str,
        typer.Option(
            help="{unlearning.scoring:scorer}. After a colon: classifier:FILE, judge:MODEL@URL, "
            "local-judge:MODEL, sequence-classifier:MODEL#LABEL, pair-classifier:MODEL."
        ),
    ] = "phrases",
    scale: Annotated[
        str, typer.Option(help="refusal (refused, class), or by a judge: biased-or-toxic.")
    ] = "refusal",
    price_read: Annotated[
        float | None, typer.Option(min=0, help="Per million tokens that a judge reads.")
    ] = None,
    price_written: Annotated[
        float | None, typer.Option(min=0, help="Per million tokens that it writes.")
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what it takes, and stop.")] = False,
) -> None:
    """Score recorded answers: refused or not, and in which way.

    A judge's verdicts are kept as they come: the same command goes on where it stopped, and asks
    for nothing twice.
    """
    from analyses.recorded.scoring import prepare_scoring, score_records
    from analyses.runs import Progress

    if (price_read is None) != (price_written is None):
        raise InputError("a price needs both --price-read and --price-written")
    prices = None if price_read is None or price_written is None else (price_read, price_written)
    scoring = prepare_scoring(file, scorer, scale)
    typer.echo(scoring.plan(prices), err=True)
    if not plan:
        typer.echo(score_records(scoring, out, Progress()).text())


def agree(
    scores: Annotated[list[Path], typer.Argument(help="What `score` wrote; several to compare.")],
    label: Annotated[
        str, typer.Option(help="Field with people's labels; a.b if nested.")
    ] = "label",
    model: Annotated[str, typer.Option(help="Field that says whose answer it is.")] = "model",
    rows: Annotated[int, typer.Option(min=0, help="Disagreeing answers to show.")] = 20,
) -> None:
    """Accuracy, precision, recall and Cohen's kappa, per model, with intervals."""
    from analyses.recorded.agreement import compare_with_labels

    typer.echo(compare_with_labels(*scores, label=label, model=model).text(rows=rows))


def calibrate(
    file: Annotated[Path, typer.Argument(help="Your labelled answers: response, and a label.")],
    out: Annotated[Path, typer.Option(help="For `--scorer classifier:OUT`.")],
    label: Annotated[str | None, typer.Option(help="The field; class, refused or label.")] = None,
) -> None:
    """Teach the classifier from your own labelled answers."""
    from analyses.recorded.scoring import write_calibration

    counts = write_calibration(file, out, label=label)
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
