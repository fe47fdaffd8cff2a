"""``spillover score``, ``agree`` and ``calibrate``: answers that are recorded already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import DryRun, command
from analyses.options import DryRunOnly
from interp.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analyses.recorded.agreement import AgreementTables
    from analyses.recorded.scoring import Scored


@command
def score(
    file: Annotated[Path, typer.Argument(help="Recorded answers: prompt, response, any more.")],
    scorer: Annotated[
        str,
        typer.Option(
            help="{unlearning.scoring:scorer}. After a colon: classifier:FILE, judge:MODEL@URL, "
            "local-judge:MODEL, sequence-classifier:MODEL#LABEL, pair-classifier:MODEL."
        ),
    ] = "phrases",
    out: Annotated[
        Path, typer.Option(help="JSONL: every field kept, the scale's fields added.")
    ] = Path("runs/score-FILE-SCORER.jsonl"),
    scale: Annotated[
        str, typer.Option(help="refusal (refused, class), or by a judge: biased-or-toxic.")
    ] = "refusal",
    price_read: Annotated[
        float | None, typer.Option(min=0, help="Per million tokens that a judge reads.")
    ] = None,
    price_written: Annotated[
        float | None, typer.Option(min=0, help="Per million tokens that it writes.")
    ] = None,
    dry_run: DryRunOnly = False,
) -> Scored | DryRun:
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
    planned = DryRun(scoring, (scoring.plan(prices),))
    if dry_run:
        return planned
    typer.echo(planned, err=True)
    found = score_records(scoring, out, Progress())
    typer.echo(found.text())
    return found


@command
def agree(
    scores: Annotated[list[Path], typer.Argument(help="What `score` wrote; several to compare.")],
    label_column: Annotated[
        str, typer.Option(help="Field with people's labels; a.b if nested.")
    ] = "label",
    model_column: Annotated[
        str, typer.Option(help="Field that says whose answer it is.")
    ] = "model",
    rows: Annotated[int, typer.Option(min=0, help="Disagreeing answers to show.")] = 20,
) -> AgreementTables:
    """Accuracy, precision, recall and Cohen's kappa, per model, with intervals."""
    from analyses.recorded.agreement import compare_with_labels

    found = compare_with_labels(*scores, label=label_column, model=model_column)
    typer.echo(found.text(rows=rows))
    return found


@command
def calibrate(
    file: Annotated[Path, typer.Argument(help="Your labelled answers: response, and a label.")],
    out: Annotated[Path, typer.Option(help="For `--scorer classifier:OUT`.")] = Path(
        "runs/calibrate-FILE.jsonl"
    ),
    label_column: Annotated[
        str | None, typer.Option(help="The field; class, refused or label.")
    ] = None,
) -> Mapping[str, int]:
    """Teach the classifier from your own labelled answers."""
    from analyses.recorded.scoring import write_calibration

    counts = write_calibration(file, out, label=label_column)
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts
