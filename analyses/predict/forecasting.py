"""A forecast in its folder: the base model scored, its gradients read, a table and a figure."""

from __future__ import annotations

from analyses.figures import Drawing, write_results
from analyses.predict.evidence import evidence_of
from analyses.predict.figures import forecast_figure
from analyses.predict.forecasts import TRAINED, forecast
from analyses.predict.tournament import read_choices
from analyses.study import Context, establish
from unlearning.training import TrainingSettings


def forecast_in(
    context: Context, concept: str, training: TrainingSettings, *, seed: int, over: str = TRAINED
) -> str:
    """Forecast the unlearning of ``concept``; what to print. Writes JSON, CSV and a figure.

    Raises:
        InputError: the model refuses too few of the prompts of some domain.
    """
    baseline = establish(context)
    evidence = evidence_of(context, baseline, training)
    with context.progress.stage(f"gradients of {len(evidence.domains)} domains"):
        found = forecast(evidence, concept, read_choices(), seed=seed, over=over)
    folder = context.run.folder
    rows = found.leakage.astype(object).where(found.leakage.notna(), None).to_dict("records")
    said = {"concept": concept, "kernel": over, "leakage": rows}
    facts = {"forecast": said | {"compliance": dict(found.compliance)}}
    drawn = []
    if found.defined:
        drawn.append(Drawing("forecast", "", "", forecast_figure(found), found.leakage))
    tables = {"forecast": found.leakage, "predictors": found.rankings}
    write_results(folder, tables=tables, facts=facts, drawings=drawn, figures="")
    table = found.leakage.round(2).to_string(index=False) if found.defined else ""
    return "\n".join(
        part for part in (table, *found.sentences(), str(folder / "forecast.json")) if part
    )
