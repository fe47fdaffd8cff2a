"""Everything that an evaluation writes, its page last."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analyses.evaluate.figures import evaluation_drawings
from analyses.evaluate.findings import Findings
from analyses.evaluate.measures import Measures, measured
from analyses.evaluate.plan import Inputs
from analyses.evaluate.summary import evaluation_summary
from analyses.evaluate.view import completions_view, evaluation_facts, evaluation_view
from analyses.figures import save_drawings
from analyses.report import inlined, write_page
from analyses.runs import write_manifest, write_table
from interp.store import write_csv, write_json


def write_evaluation(
    findings: Findings, inputs: Inputs, folder: Path, *, show_completions: bool = False
) -> tuple[Path, Measures]:
    """Tables, figures, ``summary.json`` and ``report.html``, whose path is returned.

    What an earlier evaluation of the same model left there, with other options, is taken away.

    Args:
        show_completions: put answers on the page.
    """
    measures = measured(findings)
    write_table(folder / "prompts.parquet", inputs.prompts)
    write_table(folder / "scores.parquet", findings.scores)
    for name, table in evaluation_tables(measures).items():
        path = folder / f"{name}.csv"
        if table.empty:
            path.unlink(missing_ok=True)
            continue
        write_csv(path, table)
    write_json(folder / "summary.json", evaluation_summary(measures))
    write_json(folder / "config.json", evaluation_facts(inputs))
    write_manifest(
        folder,
        hashes=dict(findings.fingerprints),
        scorers={name: scorer.version for name, scorer in inputs.panel.items()},
        seconds=findings.seconds,
    )
    drawn = tuple(evaluation_drawings(measures))
    save_drawings(drawn, folder / "figures")
    names = {drawing.name for drawing in drawn}
    for path in (folder / "figures").iterdir():
        if path.stem not in names:
            path.unlink()  # of the same evaluation with other options
    view = evaluation_view(inputs, measures) | {
        "drawings": {drawing.name: drawing for drawing in drawn},
        "images": inlined(folder, names),
        "completions": completions_view(inputs, measures) if show_completions else [],
    }
    return write_page(folder / "report.html", "evaluate/evaluation.html.jinja", view), measures


def evaluation_tables(measures: Measures) -> dict[str, pd.DataFrame]:
    """The tables that are written, by file name; of disagreeing answers the ids and readings."""
    rows = measures.disagreements
    columns = [name for name in rows if str(name).startswith(("refused_", "class_"))]
    return {
        "numbers": measures.numbers,
        "differences": measures.differences,
        "agreement": measures.agreement,
        "disagreements": rows[["prompt_id", "domain", "label", "kind", *columns]],
        "divergence": measures.divergence,
        "texts": measures.texts,
        "tasks": measures.tasks,
    }
