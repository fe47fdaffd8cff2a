"""The direction gate of a study's base model: one line of its report."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.report import GATE_FILE
from analyses.runs import linked_units
from analyses.study.fitting import reading_for
from analyses.study.work import GATE_PROMPTS, gate_trials, why_no_gate
from interp.errors import InputError
from interp.selection import DirectionGate, Prompts, measure_gate
from interp.store import SCHEMAS, content_key, read_json, write_json
from unlearning.refusal import ResponsePrefixes, refusal_log_odds

if TYPE_CHECKING:
    import pandas as pd

    from analyses.study.baseline import Baseline
    from analyses.study.context import Context
    from interp.model import LanguageModel
    from interp.readout import Readout


def write_gate(context: Context, baseline: Baseline) -> None:
    """Write ``gate.json`` into the run's folder: the gate, or ``why`` it was not measured.

    A gate of the same weights stays: of an earlier session with the same inputs, or of
    ``spillover doctor --gate --run``.
    """
    path = context.run.folder / GATE_FILE
    stored = read_json(path) if path.is_file() else {}
    known: dict[str, Any] = {"weights": context.fingerprint, "inputs": baseline.inputs.key}
    known["readout"] = asdict(baseline.prefixes) if baseline.prefixes else "text"
    known = json.loads(json.dumps(known))
    is_same = stored.get("weights") == known["weights"]
    is_same &= stored.get("inputs", known["inputs"]) in baseline.inputs
    is_same &= stored.get("readout", known["readout"]) == known["readout"]
    found, why = None, _why_not(context, baseline)
    # A gate of an older version stays where the study would not measure it.
    if is_same and stored.get("line") and (why or stored.get("schema") == SCHEMAS["gate"]):
        return
    if not why:
        assert baseline.prefixes is not None
        readout = partial(refusal_log_odds, prefixes=baseline.prefixes)
        table = gate_prompts(context.prompts)
        lm, known_by = context.reference, context.fingerprint
        kept = kept_trials(context.run.folder / "cache", lm, known_by, table, baseline.prefixes)
        try:
            total = gate_trials(table, lm.n_layers)
            with context.progress.stage("base model: direction gate", total) as advance:
                found = gate_on(
                    lm,
                    table,
                    readout,
                    batch_size=context.plan.batch_size,
                    progress=advance,
                    kept=kept,
                )
        except InputError as error:  # the model shows too little of the behaviour
            why = str(error)
    if found is None:
        context.progress.say(f"direction gate: not measured, because {why}")
    told = {"line": "", "massive": ""} if found is None else found.summary()
    write_json(path, {**known, "why": why, **told})
    for part in (context.run.folder / "cache").glob("gate-*.jsonl"):
        part.unlink()  # what an interrupted gate would have gone on from


def _why_not(context: Context, baseline: Baseline) -> str:
    if baseline.prefixes is None:
        return "refusal is read from text in this run, and the gate needs log-odds"
    reading = reading_for(context.plan, context.prompts)
    return why_no_gate(context.plan, context.prompts, reading)


def kept_trials(
    folder: Path,
    lm: LanguageModel,
    fingerprint: str,
    table: pd.DataFrame,
    prefixes: ResponsePrefixes,
) -> Path:
    """The file in ``folder`` that keeps what the gate of a model read under edits."""
    asked = [list(table[name]) for name in ("prompt", "domain", "label", "split")]
    leaves = [prefixes.refusal, prefixes.compliance]
    read_by = [fingerprint, lm.configuration, lm.chat.fingerprint, lm.chat.tokenization]
    key = content_key("gate", *read_by, leaves, asked)
    return folder / f"gate-{key[:16]}.jsonl"


def gate_on(
    lm: LanguageModel, table: pd.DataFrame, readout: Readout, **options: Any
) -> DirectionGate:
    """The gate of a table of prompts: fitted on training prompts, chosen on validation prompts.

    ``options`` are those of :func:`interp.selection.measure_gate`.

    Raises:
        InputError: the model refuses too few harmful prompts, or too many benign ones.
    """
    return measure_gate(
        lm,
        prompts_by_domain(table, "train"),
        _together(table, "validation"),
        _together(table, "test"),
        readout,
        **options,
    )


def gate_prompts(
    table: pd.DataFrame, per_domain: int = GATE_PROMPTS, seed: int = 0
) -> pd.DataFrame:
    """At most ``per_domain`` rows of each domain, label and split, in the table's order."""
    if per_domain < 1:
        raise InputError(f"per_domain={per_domain}; give a whole number of 1 or more")
    # By position: a table may hold an index twice, as joined tables do.
    shuffled = table.reset_index(drop=True).sample(frac=1, random_state=seed)
    chosen = shuffled.groupby(["domain", "label", "split"]).head(per_domain)
    return table.iloc[chosen.index.sort_values()]


def prompts_by_domain(table: pd.DataFrame, split: str) -> dict[str, Prompts]:
    """The harmful and benign prompts of each domain in one split."""
    part = table[table["split"] == split]
    units = dict(zip(part["prompt"], linked_units(part).tolist(), strict=True))
    return {
        str(domain): Prompts(
            rows.loc[rows["label"] == "harmful", "prompt"].tolist(),
            rows.loc[rows["label"] == "benign", "prompt"].tolist(),
            {text: units[text] for text in rows["prompt"]},
        )
        for domain, rows in part.groupby("domain", sort=True)
    }


def _together(table: pd.DataFrame, split: str) -> Prompts:
    return Prompts.pooled(prompts_by_domain(table, split).values())
