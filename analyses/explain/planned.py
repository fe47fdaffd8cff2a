"""The plan of ``explain``: its sizes for a model, and the expected time and memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analyses.costs import (
    ARM_OF_A_PAGE,
    CostedModel,
    CostEstimate,
    Extent,
    Work,
    answering_estimate,
    reading_of,
)
from analyses.explain.mediation import Subject, evenly
from analyses.explain.sizes import ALL, Sizes, default_sizes
from analyses.explain.work import SMALL_BATCHES, DomainWork
from analyses.runs import Arm, RunRecord, weights_of
from interp.activations import chosen_layers
from interp.errors import InputError
from interp.progress import Advance
from interp.store import read_table

if TYPE_CHECKING:
    import pandas as pd

    from interp.model import LanguageModel
    from unlearning.refusal import ResponsePrefixes


@dataclass(frozen=True)
class ExplainPlan:
    """What will be computed for an arm, in words, and what it will need."""

    lines: tuple[str, ...]
    estimate: CostEstimate


def sizes_of(lm: LanguageModel, asked: Mapping[str, Any]) -> Sizes:
    """The sizes for a loaded model.

    Args:
        lm: the model.
        asked: arguments of :func:`~analyses.explain.sizes.default_sizes`; layers may be ``all``.

    Raises:
        InputError: a layer does not exist.
    """
    given = asked["layers"]
    layers = None if given is None else chosen_layers(lm, None if given == ALL else given)
    parameters = sum(one.numel() for one in lm.model.parameters())
    return default_sizes(parameters, lm.n_layers, **{**asked, "layers": layers})


def explain_plan(
    record: RunRecord,
    arm: Arm,
    domains: Sequence[str],
    sizes: Sizes,
    prefixes: ResponsePrefixes,
    *,
    n_layers: int,
    timing: bool = True,
) -> ExplainPlan:
    """The plan for some domains of an arm.

    Args:
        record: the run.
        arm: with weights.
        domains: to explain.
        sizes: what is computed for each.
        prefixes: of the read-out.
        n_layers: decoder layers of the model.
        timing: measure the model's speed now.
    """
    prompts = read_table(record.folder / "prompts.parquet")
    evaluated = prompts[prompts["split"] != "train"]
    source, options = record.config["model"], record.model_options
    reading = reading_of(list(evaluated["prompt"]), 0, source, options)
    expected, most = 0.0, 0.0
    for domain in domains:
        rows = _harmful(evaluated, domain)
        work = DomainWork(
            min(rows, sizes.read or rows), reading.own, columns_of(prefixes), n_layers, sizes
        )
        expected += work.total()
        most += max(work.total(), work.total(routing=True))
    states = 2 * len(evaluated) * reading.prompt
    pages = 1 + ARM_OF_A_PAGE * len(record.arms)  # the run's report is written anew
    extent = Extent(
        *(
            Work(read=SMALL_BATCHES * tokens + states, arms=2, pages=pages)
            for tokens in (expected, most)
        )
    )
    subjects = [CostedModel(source, options), CostedModel(str(weights_of(record, arm)), options)]
    batch = min(sizes.batch_size, sizes.read or sizes.batch_size)
    found = answering_estimate(subjects, replace(reading, answer=0), extent, batch, timing=timing)
    lines = (
        f"{len(domains)} domains: {', '.join(domains)}",
        *sizes.lines(n_layers),
        f"work: about {(expected + states) / 1e6:.2f} M tokens through all layers, "
        f"{(most + states) / 1e6:.2f} M at most",
        *found.lines(),
    )
    return ExplainPlan(lines, found)


def plan_without_models(
    record: RunRecord,
    arm: Arm,
    domains: Sequence[str],
    prefixes: ResponsePrefixes,
    asked: Mapping[str, Any],
    *,
    timing: bool = True,
) -> ExplainPlan | None:
    """The plan for an arm before its models are loaded; None while the model is not here.

    Raises:
        InputError: a layer does not exist.
    """
    found = CostedModel(record.config["model"], record.model_options).footprint()
    if found is None:
        return None
    footprint, layers = found[1], asked["layers"]
    if layers == ALL:
        layers = range(footprint.layers)
    elif layers is not None and max(layers) >= footprint.layers:
        raise InputError(
            f"layers {list(layers)} asked for; the model has 0 … {footprint.layers - 1}"
        )
    sizes = default_sizes(footprint.parameters, footprint.layers, **{**asked, "layers": layers})
    return explain_plan(
        record, arm, domains, sizes, prefixes, n_layers=footprint.layers, timing=timing
    )


def domain_work(
    subject: Subject, domain: str, sizes: Sizes, prefixes: ResponsePrefixes
) -> DomainWork:
    """The work of one domain of loaded models."""
    rows = [subject.base.chat.encode(text) for text in subject.texts[domain]]
    shared = 0
    for tokens in zip(*(row.ids for row in rows), strict=False):
        if len(set(tokens)) > 1:
            break
        shared += 1
    own = sum(map(len, rows)) / len(rows) - shared
    read = len(evenly(len(rows), sizes.read))
    return DomainWork(read, own, columns_of(prefixes), subject.base.n_layers, sizes)


def columns_of(prefixes: ResponsePrefixes) -> int:
    """Tokens from the last one of a prompt on, in all forwards of the read-out."""
    return sum(1 + len(path) for path in prefixes.paths)


def progress_of(work: DomainWork, places: int, advance: Advance) -> dict[str, Advance]:
    """By part of an explanation: count tokens through all layers.

    Args:
        work: of the domain.
        places: number of forwards of the places.
        advance: the display, of ``work.total()`` tokens.
    """
    each = {
        "undone": work.undone / work.rows,
        "controls": work.controls(routing=False) / work.sizes.draws,
        "places": work.places / max(places, 1),
    }
    return {
        part: (lambda count, tokens=tokens: advance(round(count * tokens)))  # type: ignore[misc]
        for part, tokens in each.items()
    }


def _harmful(evaluated: pd.DataFrame, domain: str) -> int:
    mine = (evaluated["domain"] == domain) & (evaluated["label"] == "harmful")
    return max(int(mine.sum()), 1)
