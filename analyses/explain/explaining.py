"""Explain a run's losses in ``RUN/causes/``: a figure, tables and a sentence per domain.

The JSON of an arm and domain is written last; its ``key`` is a hash of the inputs. If the key is
the same, the explanation is skipped, so the same command resumes an interrupted run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.costs import watched
from analyses.explain.figures import causes_figure
from analyses.explain.localising import COMPONENTS, require_draws
from analyses.explain.mediation import (
    Explanation,
    Subject,
    explain_domain,
    place_forwards,
    shares_table,
)
from analyses.explain.planned import (
    domain_work,
    explain_plan,
    plan_without_models,
    progress_of,
    sizes_of,
)
from analyses.explain.sentences import cause_sentence, place, too_few_sentence
from analyses.explain.sizes import ALL, Sizes
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
    contrast_rows,
    read_run,
    weights_of,
)
from analyses.study import require_prefixes
from interp.causes import LEAST_GAP, MIXED
from interp.errors import InputError
from interp.model import LanguageModel
from interp.store import atomic_write, content_key, read_json, read_table, write_csv, write_json
from unlearning.refusal import ResponsePrefixes, readout_of

METHOD = 5
"""Version of the method: raise it if the same inputs give another explanation."""
COLUMNS = ("arm", "concept", "domain", "cause", "layer", "lost_nats", "sentence")


def explain_run(
    folder: Path,
    *,
    arms: Sequence[str] = (),
    layers: Sequence[int] | str | None = None,
    prompts: int | None = None,
    draws: int | None = None,
    place_draws: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    timing: bool = True,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Explain every domain that lost refusal log-odds, arm by arm.

    In a model of more than 20 million weights the defaults are a part of the layers, prompts and
    random moves (:mod:`analyses.explain.sizes`); the plan and each sentence say which.

    Args:
        folder: of a run that still has its arms' weights.
        arms: names of arms (default: all finished ones except controls).
        layers: 0-based decoder layers to examine, or ``"all"``.
        prompts: most harmful prompts of a domain that are read; 0 for all.
        draws: number of random moves for each cause.
        place_draws: number of random edits for each place of weights and states.
        batch_size: prompts in one forward.
        seed: for halves, draws and resamples.
        timing: measure the expected time before the work begins.
        progress: the display.

    Returns:
        A row for each arm and domain: ``arm, concept, domain, cause, layer, lost_nats`` and a
        plain ``sentence``. If the run has a report, it is rewritten and shows them.

    Raises:
        InputError: an arm or layer does not exist, no arm has weights, there are too few random
            edits, or the prefixes do not separate refusals.
    """
    if place_draws is not None:
        require_draws(place_draws)
    record = read_run(folder)
    with RunFolder(folder).locked():
        chosen = _chosen(record, arms)
        prefixes = require_prefixes(record.folder / "arms" / BASE, "explain")
        asked = {
            "layers": layers, "read": prompts, "draws": draws, "place_draws": place_draws,
            "batch_size": batch_size,
        }  # fmt: skip
        work = _Work(record, prefixes, asked, seed, timing, progress or Progress())
        rows = [row for arm in chosen for row in work.explained(arm)]
        if work.is_fresh and (record.folder / "report.html").is_file():
            with work.progress.stage("report"):
                run_report.write_report(record.folder)
    return pd.DataFrame(rows, columns=list(COLUMNS))


class _Work:
    """A run that is being explained: its base model is loaded once."""

    def __init__(
        self,
        record: RunRecord,
        prefixes: ResponsePrefixes,
        asked: Mapping[str, Any],
        seed: int,
        timing: bool,
        progress: Progress,
    ) -> None:
        self.record, self.prefixes, self.asked = record, prefixes, asked
        self.seed, self.timing, self.progress = seed, timing, progress
        self.prompts = read_table(record.folder / "prompts.parquet")
        self.base = base_of(record)
        self.fingerprint = self.base.fingerprint()
        self.sizes = sizes_of(self.base, asked)
        self.is_fresh = False

    def explained(self, arm: Arm) -> list[dict[str, Any]]:
        """The JSON of every domain of an arm; what was explained before is read."""
        base, sizes, progress = self.base, self.sizes, self.progress
        after = after_of(self.record, arm)
        key = content_key(
            ("readout", "causes"), self.fingerprint, after.fingerprint(),
            base.configuration, after.configuration, base.chat.fingerprint, base.chat.tokenization,
            asdict(self.prefixes), self.prompts.to_json(orient="records"),
            {**asdict(sizes), "batch_size": None}, self.seed, METHOD,
        )  # fmt: skip
        to = self.record.folder / "causes" / _folder_of(arm, sizes, base.n_layers)
        lost = _lost(self.record, arm)
        said = {d: known for d in lost if (known := _said_before(to / f"{d}.json", key))}
        if said:
            progress.say(f"{arm.name}: {len(said)} of {len(lost)} domains already explained")
        new = {domain: nats for domain, nats in lost.items() if domain not in said}
        short = _too_few(self.prompts, arm, new) if new else {}
        said |= short
        if left := [domain for domain in new if domain not in short]:
            plan = explain_plan(
                self.record, arm, left, sizes, self.prefixes, n_layers=base.n_layers,
                timing=self.timing,
            )  # fmt: skip
            for line in plan.lines:
                progress.say(f"{arm.name}: {line}")
            with watched(to, plan.estimate.to_json()):
                for found in self._found(arm, after, left):
                    caveat = _caveat(found, base.n_layers, self.asked["layers"])
                    said[found.domain] = _write(to, arm, found, key, caveat)
                    self.is_fresh = True
        nothing = f"{arm.name}: no domain lost more than {LEAST_GAP:g} nat of refusal log-odds."
        return [said[domain] for domain in lost] or [
            {"arm": arm.name, "concept": arm.concept, "sentence": nothing}
        ]

    def _found(
        self, arm: Arm, after: LanguageModel, domains: Sequence[str]
    ) -> Iterator[Explanation]:
        sizes, progress = self.sizes, self.progress
        within = range(self.base.n_layers) if sizes.refined else sizes.layers
        with progress.stage(f"{arm.name}: states"):
            subject = Subject.of(
                self.base, after, readout_of(self.prefixes), self.prompts, layers=within,
                batch_size=sizes.batch_size,
            )  # fmt: skip
        options = {f.name: getattr(sizes, f.name) for f in fields(sizes)}
        for domain in domains:
            work = domain_work(subject, domain, sizes, self.prefixes)
            with progress.stage(f"{arm.name}: {domain}", round(work.total())) as advance:
                told = progress_of(work, place_forwards(subject, domain, sizes), advance)
                yield explain_domain(subject, domain, seed=self.seed, progress=told, **options)


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


def plan_lines(
    folder: str | Path, arms: Sequence[str], asked: Mapping[str, Any], *, timing: bool = True
) -> dict[str, list[str]]:
    """Arm → lines on what would be computed for its losses, and on losses with too few prompts.

    Args:
        folder, arms: as for :func:`planned_losses`.
        asked: see :func:`~analyses.explain.planned.sizes_of`.
        timing: measure the expected time.
    """
    record = read_run(folder)
    prefixes = require_prefixes(record.folder / "arms" / BASE, "explain")
    prompts = read_table(record.folder / "prompts.parquet")
    found = {}
    for arm in _asked(record, arms):
        if not (weights_of(record, arm) and (lost := _lost(record, arm))):
            continue
        short = _too_few(prompts, arm, lost)
        left = [domain for domain in lost if domain not in short]
        plan = plan_without_models(record, arm, left, prefixes, asked, timing=timing)
        found[arm.name] = [row["sentence"] for row in short.values()]
        found[arm.name] += plan.lines if left and plan else ()
    return found


def parse_layers(text: str | None) -> tuple[int, ...] | str | None:
    """Parse layers separated by commas; None without layers, and ``"all"`` as it is.

    Raises:
        InputError: a part of the text is not a number.
    """
    if text is None or text == ALL:
        return text
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdigit() for part in parts):
        raise InputError(
            f"layers are {text!r}; expected numbers separated by commas, as in 4,8,12, or all"
        )
    return tuple(int(part) for part in parts)


def losses(record: RunRecord, arm: Arm) -> dict[str, float]:
    """Mean refusal log-odds that each domain's harmful test prompts lost, in nats."""
    means = []
    for scores in (record.base.scores, arm.last):
        rows = scores[(scores["split"] == "test") & (scores["label"] == "harmful")]
        means.append(rows.groupby("domain", sort=False)["margin"].mean())
    return {str(domain): float(value) for domain, value in (means[0] - means[1]).items()}


def _lost(record: RunRecord, arm: Arm) -> dict[str, float]:
    """The domains that lost refusal log-odds, and their losses."""
    return {name: loss for name, loss in losses(record, arm).items() if loss > LEAST_GAP}


def _too_few(
    prompts: pd.DataFrame, arm: Arm, lost: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """The rows of domains with too few prompts for a contrast of harmful and benign ones."""
    evaluated = prompts[prompts["split"] != "train"].reset_index(drop=True)
    contrasted = contrast_rows(prompts, evaluated)
    return {
        domain: {
            "arm": arm.name, "concept": arm.concept, "domain": domain, "lost_nats": nats,
            "sentence": too_few_sentence(domain, arm.concept, nats),
        }
        for domain, nats in lost.items()
        if domain not in contrasted
    }  # fmt: skip


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


def _said_before(path: Path, key: str) -> dict[str, Any] | None:
    """The complete existing result of a domain for the same inputs, if any."""
    if not path.is_file():
        return None
    stored = read_json(path, ())
    return dict(stored) if stored.get("key") == key else None


def _folder_of(arm: Arm, sizes: Sizes, n_layers: int) -> str:
    """The folder of an arm; results for some layers do not overwrite those for all."""
    if sizes.refined or len(sizes.layers) == n_layers:
        return arm.name
    return f"{arm.name}-layers-{'-'.join(map(str, sizes.layers))}"


def _caveat(found: Explanation, n_layers: int, asked: Sequence[int] | str | None) -> str:
    """A caveat if not all layers, prompts or components were examined."""
    layers, read = [one.layer for one in found.undone], found.at_layer.values.shape[1]
    said = []
    if len(layers) < n_layers:
        listed = ", ".join(map(str, layers))
        more = "; other layers may have another cause" if asked is not None else ""
        said.append(f"Of {n_layers} layers only {listed} examined{more}.")
    if read < found.prompts:
        said.append(f"Of {found.prompts} prompts {read} read.")
    patched = set(found.states["component"])
    if missing := [site.name for site in COMPONENTS if site.name not in patched]:
        said.append(f"Not patched, because no trace finds them: {', '.join(missing)}.")
    return f" ({' '.join(said)})" if said else ""


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
