"""Explain a run's losses in ``RUN/causes/``: a figure, tables and a sentence per domain.

The JSON of an arm and domain is written last; its ``key`` is a hash of the inputs. If the key is
the same, the explanation is skipped, so the same command resumes an interrupted run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.explain.figures import causes_figure
from analyses.explain.localising import require_draws
from analyses.explain.mediation import (
    Explanation,
    Subject,
    explain_domain,
    forwards_of,
    shares_table,
)
from analyses.figures import domain_label
from analyses.figures.style import figure_style
from analyses.report import run_report
from analyses.runs import (
    BASE,
    Arm,
    Progress,
    RunFolder,
    RunRecord,
    after_of,
    base_of,
    read_run,
    weights_of,
)
from analyses.study import require_prefixes
from interp.activations import chosen_layers
from interp.causes import LEAST_GAP, MIXED, CauseVerdict
from interp.errors import InputError
from interp.store import atomic_write, content_key, read_json, read_table, write_csv, write_json
from unlearning.refusal import readout_of

METHOD = 3
"""Version of the method: raise it if the same inputs give another explanation."""
COLUMNS = ("arm", "concept", "domain", "cause", "layer", "lost_nats", "sentence")
PLACES = {
    "rotation": "in the orientation of its direction after layer {layer} (rotation)",
    "gain": "in the length of its direction after layer {layer} (gain)",
    "offset": "in a shift of harmful and benign prompts alike after layer {layer} (offset)",
    "routing": "in how later layers use the states after layer {layer} (routing)",
}


def explain_run(
    folder: Path,
    *,
    arms: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    draws: int = 100,
    place_draws: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Explain every domain that lost refusal log-odds, arm by arm.

    Args:
        folder: of a run that still has its arms' weights.
        arms: names of arms (default: all finished ones except controls).
        layers: 0-based decoder layers to examine (default: all).
        draws: number of random moves for each cause.
        place_draws: number of random edits for each place of weights and states.
        batch_size: prompts in one forward.
        seed: for halves, draws and resamples.
        progress: the display.

    Returns:
        A row for each arm and domain: ``arm, concept, domain, cause, layer, lost_nats`` and a
        plain ``sentence``. If the run has a report, it is rewritten and shows them.

    Raises:
        InputError: an arm or layer does not exist, no arm has weights, there are too few random
            edits, or the prefixes do not separate refusals.
    """
    require_draws(place_draws)
    record = read_run(folder)
    with RunFolder(folder).locked():
        return _explained(
            record,
            _chosen(record, arms),
            layers,
            {"draws": draws, "place_draws": place_draws, "batch_size": batch_size},
            seed,
            progress or Progress(),
        )


def _explained(
    record: RunRecord,
    chosen: Sequence[Arm],
    layers: Sequence[int] | None,
    sizes: dict[str, int],
    seed: int,
    progress: Progress,
) -> pd.DataFrame:
    prefixes = require_prefixes(record.folder / "arms" / BASE, "explain")
    readout = readout_of(prefixes)
    prompts = read_table(record.folder / "prompts.parquet")
    base = base_of(record)
    fingerprint = base.fingerprint()
    wanted = chosen_layers(base, layers)
    rows: list[dict[str, Any]] = []
    fresh = False
    for arm in chosen:
        after = after_of(record, arm)
        key = content_key(
            ("readout", "causes"), fingerprint, after.fingerprint(), base.chat.fingerprint,
            asdict(prefixes), wanted, prompts.to_json(orient="records"),
            sizes["draws"], sizes["place_draws"], seed, METHOD,
        )  # fmt: skip
        to = record.folder / "causes" / _folder_of(arm, wanted, base.n_layers)
        lost = list(_lost(record, arm))
        said = {d: known for d in lost if (known := _said_before(to / f"{d}.json", key))}
        if said:
            progress.say(f"{arm.name}: {len(said)} of {len(lost)} domains already explained")
        if left := [domain for domain in lost if domain not in said]:
            with progress.stage(f"{arm.name}: states"):
                subject = Subject.of(
                    base, after, readout, prompts, layers=wanted, batch_size=sizes["batch_size"]
                )
            for domain in left:
                if domain not in subject.changes:
                    continue
                work = forwards_of(subject, domain, **sizes)
                with progress.stage(f"{arm.name}: {domain}", work) as advance:
                    found = explain_domain(subject, domain, seed=seed, progress=advance, **sizes)
                said[domain] = _write(to, arm, found, key, _caveat(wanted, base.n_layers))
                fresh = True
        nothing = f"{arm.name}: no domain lost more than {LEAST_GAP:g} nat of refusal log-odds."
        rows += [said[domain] for domain in lost if domain in said] or [
            {"arm": arm.name, "concept": arm.concept, "sentence": nothing}
        ]
    if fresh and (record.folder / "report.html").is_file():
        with progress.stage("report"):
            run_report.write_report(record.folder)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def planned_losses(
    folder: str | Path, arms: Sequence[str] = ()
) -> dict[str, dict[str, float] | None]:
    """Arm → domain → lost nats, as :func:`explain_run` would explain them; loads no model.

    An arm without weights, which cannot be explained, has None.

    Raises:
        InputError: an arm does not exist.
    """
    record = read_run(folder)
    return {
        arm.name: _lost(record, arm) if weights_of(record, arm) else None
        for arm in _asked(record, arms)
    }


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """Parse layers separated by commas; None without layers.

    Raises:
        InputError: a part of the text is not a number.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise InputError(f"layers are {text!r}; expected numbers separated by commas, as in 4,8,12")
    return tuple(int(part) for part in parts)


def losses(record: RunRecord, arm: Arm) -> dict[str, float]:
    """Mean refusal log-odds that each domain's harmful test prompts lost, in nats."""
    means = []
    for scores in (record.base.scores, arm.last):
        rows = scores[(scores["split"] == "test") & (scores["label"] == "harmful")]
        means.append(rows.groupby("domain", sort=False)["margin"].mean())
    return {str(domain): float(value) for domain, value in (means[0] - means[1]).items()}


def cause_sentence(domain: str, concept: str | None, verdict: CauseVerdict) -> str:
    """The verdict as a sentence."""
    whose = domain_label(domain)
    when = f" when {domain_label(concept).lower()} was unlearned" if concept else ""
    lost = f"{whose} lost {verdict.gap:.1f} nats of refusal log-odds{when}"
    if verdict.cause is None:
        return f"{lost}; these data do not decide the cause ({verdict.because})."
    if verdict.cause == MIXED:
        return f"{lost}; the cause is mixed after layer {verdict.layer} ({verdict.because})."
    share = verdict.shares.shapley[verdict.cause]
    where = PLACES[verdict.cause].format(layer=verdict.layer)
    return (
        f"{lost}; the largest share of it, {share.value:.0%} [{share.low:.0%}, {share.high:.0%}], "
        f"is {where}; {_chance(verdict.control_high)}."
    )


def _chance(high: float) -> str:
    if not high > 0:
        return "95% of random changes of the same size carry nothing of it"
    return f"95% of random changes of the same size carry less than {max(high, 0.01):.0%}"


def _lost(record: RunRecord, arm: Arm) -> dict[str, float]:
    """The domains that lost refusal log-odds, and their losses."""
    return {name: loss for name, loss in losses(record, arm).items() if loss > LEAST_GAP}


def _asked(record: RunRecord, names: Sequence[str]) -> list[Arm]:
    known = {arm.name: arm for arm in record.arms}
    if missing := [name for name in names if name not in known]:
        raise InputError(f"no finished arm {', '.join(missing)}; there are {', '.join(known)}")
    return [known[name] for name in names] or [a for a in record.arms if not a.control]


def _chosen(record: RunRecord, names: Sequence[str]) -> list[Arm]:
    """The asked arms that have weights."""
    found = [arm for arm in _asked(record, names) if weights_of(record, arm)]
    if not found:
        raise InputError(
            f"{record.folder} holds no weights of its arms (adapter/ or model/ in each), which "
            "this command needs: run the study again and keep the weights"
        )
    return found


def place(weights: pd.DataFrame) -> str:
    """The place of the weights that carry the loss, as a sentence."""
    clear = weights[weights["stands_out"] & (weights["fraction"] > 0)]
    if clear.empty:
        known = "from random edits of the same size " if "control_low" in weights else ""
        return f"No single module's weights stand out {known}in both directions."
    best = clear.sort_values("fraction").iloc[-1]
    module = f"{best['component']} of layer {best['layer']}"
    if pd.isna(best["layer"]):
        module = str(best["component"])
    said = (
        f"The base's weights in {module} alone restore {_share(best, 'fraction')} of it, and "
        f"taking them from the base removes {_share(best, 'removed')}"
    )
    if "control_fraction_high" in best:
        said += (
            f"; random edits of the same size restore {max(best['control_fraction_high'], 0):.0%}"
        )
    return f"{said}."


def _share(row: pd.Series, name: str) -> str:
    return f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"


def _said_before(path: Path, key: str) -> dict[str, Any] | None:
    """The complete existing result of a domain for the same inputs, if any."""
    if not path.is_file():
        return None
    stored = read_json(path, ())
    return dict(stored) if stored.get("key") == key else None


def _folder_of(arm: Arm, layers: Sequence[int], n_layers: int) -> str:
    """The folder of an arm; results for some layers do not overwrite those for all."""
    if len(layers) == n_layers:
        return arm.name
    return f"{arm.name}-layers-{'-'.join(map(str, layers))}"


def _caveat(layers: Sequence[int], n_layers: int) -> str:
    """A caveat if the layers may omit the one at which the loss enters the states."""
    if len(layers) == n_layers:
        return ""
    listed = ", ".join(map(str, layers))
    return f" (Of {n_layers} layers only {listed} examined; other layers may have another cause.)"


def _write(folder: Path, arm: Arm, found: Explanation, key: str, caveat: str) -> dict[str, Any]:
    """Write tables, figure and, last, the JSON of one domain; return the JSON."""
    said = cause_sentence(found.domain, arm.concept, found.verdict) + caveat
    shares = shares_table(found)
    tables = {
        "shares": shares,
        "stitching": found.stitching,
        "weights": found.weights,
        "states": found.states,
    }
    for name, table in tables.items():
        write_csv(folder / f"{found.domain}-{name}.csv", table)
    title = f"{domain_label(found.domain)}: not decided"
    cause = found.verdict.cause
    if cause == MIXED:
        title = f"{domain_label(found.domain)}: mixed"
    elif cause:
        share = found.verdict.shares.shapley[cause].value
        title = f"{domain_label(found.domain)}: {cause}, {share:.0%}"
    with atomic_write(folder / f"{found.domain}.svg") as path, figure_style():
        figure = causes_figure(
            shares, found.stitching, found.weights, found.states, found.verdict.layer, title
        )
        figure.savefig(path, format="svg", metadata={"Date": None})
    described = {"key": key} | _described(arm, found, said)
    write_json(folder / f"{found.domain}.json", described)
    return described


def _described(arm: Arm, found: Explanation, said: str) -> dict[str, Any]:
    verdict = found.verdict
    bands = {cause: np.quantile(drawn, [0.05, 0.95]) for cause, drawn in found.controls.items()}
    return {
        "arm": arm.name,
        "concept": arm.concept,
        "domain": found.domain,
        "sentence": said,
        "place": place(found.weights),
        "cause": verdict.cause,
        "because": verdict.because or None,
        "layer": verdict.layer,
        "lost_nats": verdict.gap,
        "n": found.at_layer.values.shape[1],
        "shares": {name: share.to_json() for name, share in verdict.shares.shapley.items()},
        "restored": {name: share.to_json() for name, share in verdict.shares.restored.items()},
        "removed": {name: share.to_json() for name, share in verdict.shares.removed.items()},
        "controls": {cause: {"low": low, "high": high} for cause, (low, high) in bands.items()},
        "other_domains": dict(found.foreign),
        "ceiling": found.at_layer.ceiling,
    }
