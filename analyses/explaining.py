"""A run's losses explained, into ``RUN/causes/``: a figure, tables and a sentence a domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.arms import BASE, Arm, RunRecord, read_run
from analyses.baseline import read_openers
from analyses.figures.causes import causes_figure
from analyses.figures.style import domain_label, style
from analyses.mediation import Explanation, Subject, explain, shares_table
from analyses.progress import Progress
from interp.causes import Verdict
from interp.causes.verdict import LEAST_GAP
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import atomic_write, write_json

PLACES = {
    "rotation": "in where its direction points after layer {layer} (rotation)",
    "gain": "in the length of its direction after layer {layer} (gain)",
    "offset": "in a shift of harmful and benign prompts alike after layer {layer} (offset)",
    "routing": "in how the states after layer {layer} are read (routing)",
}


def explain_run(
    folder: Path,
    *,
    arms: Sequence[str] = (),
    draws: int = 100,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[str]:
    """Explain every domain that lost its margin, arm by arm.

    Args:
        folder: a run's; its arms' weights must still be there.
        arms: names of arms; all finished ones that are no controls by default.
        draws: random moves for each cause.
        batch_size: prompts in one forward.
        seed: of halves, draws and resamples.
        progress: the screen.

    Returns:
        A plain sentence for each arm and domain.

    Raises:
        InputError: no such arm, no arm with weights, or a margin that is no readout.
    """
    progress = progress or Progress()
    record = read_run(folder)
    chosen = _chosen(record, arms)
    readout = read_openers(record.folder / "arms" / BASE / "openers.json").readout()
    prompts = pd.read_parquet(record.folder / "prompts.parquet")
    options = dict(record.config.get("model_options") or {})
    base = _base(record, options)
    sentences: list[str] = []
    for arm in chosen:
        after = LanguageModel.load(_weights(record, arm) or "", **options)
        with progress.stage(f"{arm.name}: states"):
            subject = Subject.of(base, after, readout, prompts, batch_size=batch_size)
        said = []
        for domain, loss in losses(record, arm).items():
            if domain not in subject.changes or loss <= LEAST_GAP:
                continue
            with progress.stage(f"{arm.name}: {domain}"):
                found = explain(subject, domain, draws=draws, batch_size=batch_size, seed=seed)
            said.append(_write(record.folder / "causes" / arm.name, arm, found))
        sentences += said or [f"{arm.name}: no domain lost more than {LEAST_GAP:g} nat of margin."]
    return sentences


def losses(record: RunRecord, arm: Arm) -> dict[str, float]:
    """Mean margin that each domain's harmful test prompts lost, in nats."""
    means = []
    for scores in (record.base.scores, arm.last):
        rows = scores[(scores["split"] == "test") & (scores["label"] == "harmful")]
        means.append(rows.groupby("domain", sort=False)["margin"].mean())
    return {str(domain): float(value) for domain, value in (means[0] - means[1]).items()}


def sentence(domain: str, concept: str | None, verdict: Verdict) -> str:
    """What was found, as one would say it."""
    whose = domain_label(domain)
    when = f" when {domain_label(concept).lower()} was unlearned" if concept else ""
    lost = f"{whose} lost {verdict.gap:.1f} nats of margin{when}"
    if verdict.cause is None:
        return f"{lost}; what carries it is not decided by these data ({verdict.because})."
    share = verdict.shares.shapley[verdict.cause]
    where = PLACES[verdict.cause].format(layer=verdict.layer)
    return (
        f"{lost}; the largest share of it, {share.value:.0%} [{share.low:.0%}, {share.high:.0%}], "
        f"is {where}; 95% of random changes as large carry less than "
        f"{max(verdict.control_high, 0):.0%}."
    )


def _chosen(record: RunRecord, names: Sequence[str]) -> list[Arm]:
    known = {arm.name: arm for arm in record.arms}
    if missing := [name for name in names if name not in known]:
        raise InputError(f"no finished arm {', '.join(missing)}; there are {', '.join(known)}")
    wanted = [known[name] for name in names] or [a for a in record.arms if not a.control]
    found = [arm for arm in wanted if _weights(record, arm)]
    if not found:
        raise InputError(
            f"{record.folder} keeps no weights of its arms (adapter/ or model/ in each); the "
            "causes are found by running the models: run the study again and keep them"
        )
    return found


def _base(record: RunRecord, options: dict[str, Any]) -> LanguageModel:
    source = record.config["model"]
    base = LanguageModel.load(source, **options)
    was = (record.manifest.get("hashes") or {}).get("model")
    if was is not None and was != base.fingerprint():
        raise InputError(
            f"{source} is not the model that {record.folder} was made from: its weights have "
            "changed since; put the old ones back, or run the study again"
        )
    return base


def _weights(record: RunRecord, arm: Arm) -> str | None:
    if checkpoint := arm.config.get("checkpoint"):
        return str(checkpoint)
    folder = record.folder / "arms" / arm.name
    kept = (folder / name for name in ("adapter", "model"))
    return next((str(path) for path in kept if path.is_dir()), None)


def _write(folder: Path, arm: Arm, found: Explanation) -> str:
    """JSON, tables and figure of one domain; its sentence."""
    said = sentence(found.domain, arm.concept, found.verdict)
    shares = shares_table(found)
    tables = {"shares": shares, "weights": found.weights, "states": found.states}
    for name, table in tables.items():
        with atomic_write(folder / f"{found.domain}-{name}.csv") as path:
            table.to_csv(path, index=False, encoding="utf-8")
    write_json(folder / f"{found.domain}.json", _described(arm, found, said))
    cause = found.verdict.cause or "not decided"
    title = f"{domain_label(found.domain)}: {cause}"
    with atomic_write(folder / f"{found.domain}.svg") as path, style():
        figure = causes_figure(shares, found.verdict.layer, title)
        figure.savefig(path, format="svg", metadata={"Date": None})
    return said


def _described(arm: Arm, found: Explanation, said: str) -> dict[str, Any]:
    verdict = found.verdict
    bands = {cause: np.quantile(drawn, [0.05, 0.95]) for cause, drawn in found.controls.items()}
    return {
        "arm": arm.name,
        "concept": arm.concept,
        "domain": found.domain,
        "sentence": said,
        "cause": verdict.cause,
        "because": verdict.because or None,
        "layer": verdict.layer,
        "lost_nats": verdict.gap,
        "n": found.at_layer.values.shape[1],
        "shares": {name: asdict(share) for name, share in verdict.shares.shapley.items()},
        "restored": {name: asdict(share) for name, share in verdict.shares.restored.items()},
        "removed": {name: asdict(share) for name, share in verdict.shares.removed.items()},
        "controls": {cause: {"low": low, "high": high} for cause, (low, high) in bands.items()},
        "other_domains": dict(found.foreign),
        "ceiling": found.at_layer.ceiling,
    }
