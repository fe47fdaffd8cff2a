"""The deflections that a study trains on, and the domains that have too few of them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from analyses.runs import BASE, WEAKLY_ALIGNED, kept_table
from analyses.study.baseline import Baseline, describe_study, sampled_log
from analyses.study.context import Context
from interp.errors import FileError, InputError
from interp.store import content_key, read_table, write_json
from unlearning.deflections import FEWEST_DEFLECTIONS, distinct, refusals_of, with_sampled_refusals

WAYS_OUT = (
    ": teach the model to refuse first, give more prompts with --prompts, more samples with "
    "--samples, or ready-made pairs with --deflections FILE"
)


def deflections_of(context: Context, baseline: Baseline, domain: str) -> pd.DataFrame:
    """The base model's refusals of a domain's harmful training prompts.

    They are its greedy refusals. If these are fewer than 32, refusals are sampled, as the plan
    says. They stay in the run's folder, so they are generated and scored once.
    """
    asked = _asked(baseline, domain)
    refused = distinct(asked[asked["class"] == "refusal"])
    sampling = context.plan.sampling
    if len(refused) >= FEWEST_DEFLECTIONS or asked.empty or not sampling.samples:
        return refused

    def sampled() -> pd.DataFrame:
        total = len(asked) * sampling.samples
        with context.progress.stage(f"{domain}: sampled refusals", total) as advance:
            return with_sampled_refusals(
                context.reference,
                asked,
                refused,
                context.scorer,
                sampling,
                max_new_tokens=context.plan.max_new_tokens,
                batch_size=context.plan.batch_size,
                log=sampled_log(context, baseline.inputs.parts["model"]),
                progress=advance,
            )

    return kept_table(
        _kept(context.run.arm(BASE), domain), _key(context, baseline, domain), sampled
    )


def held_deflections(base: Path, responses: pd.DataFrame, domain: str) -> pd.DataFrame:
    """A domain's deflections in a base model's folder, with sampled ones if it has some."""
    if _kept(base, domain).is_file():
        return read_table(_kept(base, domain), ("prompt", "ids", "class"))
    return distinct(refusals_of(responses[responses["split"] == "train"], domain, fewest=0))


def require_deflections(context: Context, baseline: Baseline, domain: str) -> pd.DataFrame:
    """:func:`deflections_of`, as many as the plan asks for.

    Raises:
        InputError: there are fewer than 32.
    """
    found = deflections_of(context, baseline, domain)
    if len(found) < FEWEST_DEFLECTIONS:
        raise InputError(_shortage(context, baseline, domain, found) + WAYS_OUT)
    return found.head(context.plan.deflection_count or len(found))


def with_enough_deflections(context: Context, baseline: Baseline) -> Context:
    """The study without training data of the domains that have fewer than 32 deflections.

    It says which they are, one line each.
    """
    for path in _kept(context.run.arm(BASE), "*").parent.glob("*.parquet"):
        with suppress(FileError):  # torn: it is made again
            if set(read_table(path, ("key",))["key"]) == {_key(context, baseline, path.stem)}:
                continue
        path.unlink(missing_ok=True)  # of an earlier session with other settings of sampling
    short = {}
    for domain in context.plan.deflected(ready_made=context.pairs is not None):
        found = deflections_of(context, baseline, domain)
        if len(found) < FEWEST_DEFLECTIONS:
            short[domain] = _shortage(context, baseline, domain, found)
    if not short:
        return context
    left = context.without(short)
    for line in left.left_out_lines[-len(short) :]:
        context.progress.say(line)
    write_json(left.run.folder / "config.json", describe_study(left))
    return left


def say_low_base(context: Context, baseline: Baseline) -> None:
    """Name the targets of which the base model refuses less than half."""
    for domain in context.plan.deflected(ready_made=False):
        asked = _asked(baseline, domain)
        rate = float((asked["class"] == "refusal").mean())
        is_target = any(arm.training and arm.concept == domain for arm in context.plan.arms)
        if is_target and rate < WEAKLY_ALIGNED:
            context.progress.say(
                f"low base: the model refuses {rate:.0%} of the harmful training prompts of "
                f"{domain}, so little can be unlearned; its results are marked low base, and a "
                "clear result needs a model that was first taught to refuse"
            )


def require_arms(context: Context) -> None:
    """End a study that has nothing to unlearn, after its base model was measured.

    Raises:
        InputError: domains were left out, and no arm unlearns a domain.
    """
    if context.left_out and not context.plan.unlearns:
        raise InputError(
            f"nothing to unlearn: {'; '.join(context.left_out.values())}; "
            f"{context.run.folder / 'report.html'} shows the base model alone{WAYS_OUT}"
        )


def _kept(base: Path, domain: str) -> Path:
    return base / "deflections" / f"{domain}.parquet"


def _key(context: Context, baseline: Baseline, domain: str) -> str:
    sampling = asdict(context.plan.sampling)
    return content_key(("answers", BASE), baseline.inputs.key, domain, sampling)


def _asked(baseline: Baseline, domain: str) -> pd.DataFrame:
    """A domain's harmful training prompts, with the base model's greedy answers."""
    rows = baseline.responses
    return rows[
        (rows["split"] == "train") & (rows["domain"] == domain) & (rows["label"] == "harmful")
    ]


def _shortage(context: Context, baseline: Baseline, domain: str, found: pd.DataFrame) -> str:
    asked = _asked(baseline, domain)
    refused, samples = int((asked["class"] == "refusal").sum()), context.plan.sampling.samples
    sampled = f", {len(found)} with {samples} sampled answers to each" if samples else ""
    return (
        f"{domain} has {refused} refusals of {len(asked)} training prompts "
        f"({refused / max(len(asked), 1):.0%}){sampled}; training needs {FEWEST_DEFLECTIONS}"
    )
