"""``spillover score``, ``agree`` and ``calibrate``: work on recorded answers."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from analyses.commands import DryRun, command, default_out, opt
from analyses.options import Device, DryRunOnly, Timing
from interp.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from analyses.recorded.agreement import AgreementTables
    from analyses.recorded.scoring import Scored

SCORED, CALIBRATION = "runs/score-FILE-SCORER-SCALE.jsonl", "runs/calibrate-FILE.jsonl"


@command
def score(
    file: Annotated[
        Path,
        typer.Argument(
            help="File of recorded answers (JSONL, CSV or parquet): prompt, response and any "
            "other field."
        ),
    ],
    scorer: str = opt(
        "panel",
        "Scorer of the answers: {unlearning.scoring:scorer}. Some take more after a colon: "
        "classifier:FILE, judge:MODEL@URL, local-judge:MODEL, sequence-classifier:MODEL#LABEL, "
        "pair-classifier:MODEL, wildguard:MODEL, wildguard@URL.",
    ),
    out: Path = opt(
        Path(SCORED),
        "JSONL file of the scored answers: every field is kept, the scale's fields are added.",
    ),
    scale: str = opt(
        "refusal",
        "What is scored: refusal, harmful (judges and published guards) or biased-or-toxic "
        "(judges only).",
    ),
    price_read: float | None = opt(
        None, "Price of a million tokens that a judge reads (default: no cost is shown).", min=0
    ),
    price_written: float | None = opt(
        None, "Price of a million tokens that a judge writes (default: no cost is shown).", min=0
    ),
    device: Device = None,
    timing: Timing = True,
    dry_run: DryRunOnly = False,
) -> Scored | DryRun:
    """Score recorded answers: refused or not, and in which class.

    Only a full refusal is refused; the docs define every class (page "Score refusals"). The
    command stores each verdict of a judge at once, so the same command resumes the run.
    """
    from analyses.recorded.scoring import prepare_scoring, require_same_answers, score_records
    from analyses.runs import Progress

    if (price_read is None) != (price_written is None):
        raise InputError("a price needs both --price-read and --price-written")
    prices = None if price_read is None or price_written is None else (price_read, price_written)
    scoring = prepare_scoring(file, scorer, scale, device)
    if _is_default(out, SCORED, file=file, scorer=scorer, scale=scale):
        require_same_answers(out, scoring.records)
    planned = DryRun(scoring, (scoring.plan(prices, device=device, timing=timing),))
    if dry_run:
        return planned
    typer.echo(planned, err=True)
    found = score_records(scoring, out, Progress())
    typer.echo(found.text())
    return found


@command
def agree(
    sides: Annotated[
        list[str],
        typer.Argument(
            help="Files and scorers to compare: files of answers with people's labels, files that "
            "`score` wrote for the same answers, and scorers to run now: "
            "{unlearning.scoring:scorer}."
        ),
    ],
    label_column: str | None = opt(
        None,
        "Field that holds people's labels; a.b is a field inside a field (default: by the columns "
        "of XSTest, WildGuardTest, SORRY-Bench or OR-Bench, else label).",
    ),
    model_column: str = opt("model", "Field that names the model of each answer."),
    rows: int = opt(10, "Number of answers on which readings differ to print.", min=0),
    out: Path | None = opt(None, "Folder for the tables as CSV (default: only printed)."),
    device: Device = None,
) -> AgreementTables:
    """Measure how scorers agree with people's labels and with each other, per model.

    It prints accuracy, precision, recall and Cohen's kappa with 95% intervals, the worst model
    first, and counts partial refusals in every way. People's agreement with each other stands next
    to it.
    """
    from analyses.recorded.agreement import compare_with_labels
    from analyses.runs import Progress

    found = compare_with_labels(
        *sides, label=label_column, model=model_column, device=device, progress=Progress()
    )
    typer.echo(found.text(rows=rows))
    if out is not None:
        found.write(out)
    return found


@command
def calibrate(
    file: Annotated[
        Path, typer.Argument(help="File of your labelled answers: response and a label.")
    ],
    out: Path = opt(Path(CALIBRATION), "JSONL file for `--scorer classifier:OUT`."),
    label_column: str | None = opt(
        None,
        "Field that holds the label (default: by the columns of a known set, else class, else "
        "refused, else label; in a file that score wrote, label alone).",
    ),
) -> Mapping[str, int]:
    """Teach the classifier from your own labelled answers."""
    from analyses.recorded.scoring import require_same_answers, write_calibration
    from unlearning.data import read_answers

    if _is_default(out, CALIBRATION, file=file):
        require_same_answers(out, read_answers(file))
    counts = write_calibration(file, out, label=label_column)
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
    return counts


def _is_default(out: Path, template: str, **given: object) -> bool:
    """Whether ``out`` is where a result goes without ``--out``, a name that several files share."""
    with suppress(InputError):  # the default would be too long, so --out was given
        return out == default_out(template, given)
    return False
