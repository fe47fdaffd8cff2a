"""The published table compared with the measured one, and quantities derived from both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analyses.reproduce import derived, published
from analyses.reproduce.measured import Rates, derived_from, over_refusal, rates_of
from analyses.reproduce.plan import LeftOut, PaperArm
from analyses.reproduce.protocol import PaperModel
from analyses.reproduce.published import FINE_TUNING, NPO, Published
from analyses.runs import Arm, RunRecord
from interp.statistics import Estimate, rate_of
from unlearning.data import DOMAINS

#: Identifies an arm of a model: concept, objective, retained; all None for the base.
Key = tuple[str | None, str | None, bool]
BASE_KEY: Key = (None, None, False)
OVER_REFUSAL, MMLU = "over_refusal", "mmlu"
ARM_COLUMNS = ["published_model", "concept", "objective", "retained"]
NUMBERS = ["published", "value", "low", "high", "n", "reason"]


@dataclass(frozen=True)
class Measured:
    """What a run measured, by row of the table.

    Attributes:
        rates: refusal of the domains, the base's under ``BASE_KEY``.
        over_refusal: refusal of benign prompts.
        accuracy: percent right on tasks, if the run has tasks.
        missing: rows without an arm, with the reason.
    """

    rates: Mapping[Key, Rates]
    over_refusal: Mapping[Key, Estimate]
    accuracy: Mapping[Key, Estimate]
    missing: Mapping[Key, str]

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains with harmful test prompts."""
        return self.rates[BASE_KEY].domains

    @property
    def arms(self) -> tuple[Key, ...]:
        """All trained arms."""
        return tuple(key for key in self.rates if key != BASE_KEY)


def measured_in(
    record: RunRecord,
    prompts: pd.DataFrame,
    chosen: Sequence[PaperArm],
    left_out: Sequence[LeftOut],
    accuracy: Mapping[str, Estimate],
) -> Measured:
    """The rows of a run.

    Args:
        record: of the run.
        prompts: its prompts table.
        chosen: one arm for each row.
        left_out: arms and concepts that the plan leaves out.
        accuracy: on tasks, by the arm's name.
    """
    by_name = {arm.name: arm for arm in record.arms}
    arms: dict[Key, Arm] = {BASE_KEY: record.base}
    arms |= {one.arm: by_name[one.plan.name] for one in chosen}
    domains = tuple(domain for domain in DOMAINS if domain in _tested(record.base))
    return Measured(
        {key: rates_of(arm, domains) for key, arm in arms.items()},
        {key: over_refusal(arm, prompts) for key, arm in arms.items()},
        {key: accuracy[arm.name] for key, arm in arms.items() if arm.name in accuracy},
        {one.arm: one.why for one in left_out},
    )


def models_beside(known: PaperModel | None) -> tuple[str, ...]:
    """The published models to compare with: the model itself, or both if it is another one."""
    return (known.name,) if known else (published.MISTRAL, published.QWEN)


def scores_table(found: Measured, models: Sequence[str]) -> pd.DataFrame:
    """A row per published row and column, then rows that the paper does not have.

    Returns:
        ``published_model, concept, objective, retained, column`` (a domain, ``over_refusal`` or
        ``mmlu``), ``published``, the measured ``value, low, high, n, reason``, and ``difference,
        difference_low, difference_high`` (measured less published); all in percent.
    """
    rows: list[dict[str, Any]] = []
    for model in models:
        for row in published.TABLE:
            if row.model == model:
                rows += _cells(found, row.arm, row)
    beyond = [key for key in found.arms if published.find(models[0], *key) is None]
    for key in beyond:
        rows += _cells(found, key, None)
    return pd.DataFrame(rows)


def _cells(found: Measured, key: Key, row: Published | None) -> list[dict[str, Any]]:
    arm = dict(zip(ARM_COLUMNS, (row.model if row else "", *key), strict=True))
    cells = []
    for column in (*found.domains, OVER_REFUSAL, MMLU):
        mine = _measured(found, key, column)
        theirs, n = math.nan, None
        if row is not None:
            by_column = {**row.refusal, OVER_REFUSAL: row.over_refusal, MMLU: row.mmlu}
            theirs, n = by_column[column], published.PROMPTS.get(column)
        cell = {**arm, "column": column, "published": theirs, **vars(mine)}
        cells.append(cell | _difference(mine, theirs, n))
    return cells


def _measured(found: Measured, key: Key, column: str) -> Estimate:
    """In percent."""
    if key not in found.rates:
        why = found.missing.get(key) or found.missing.get((key[0], None, False)) or "not made"
        return Estimate.undefined(why)
    if column == MMLU:
        return found.accuracy.get(key, Estimate.undefined("no tasks were asked (--tasks)"))
    share = found.over_refusal[key] if column == OVER_REFUSAL else None
    return percent(share or found.rates[key].estimate(column))


def percent(share: Estimate) -> Estimate:
    """The same in percent."""
    bounds = (100 * share.value, 100 * share.low, 100 * share.high)
    return Estimate(*bounds, share.n, share.reason)


def _difference(mine: Estimate, theirs: float, n: int | None) -> dict[str, float]:
    """Measured minus published, in percent; the published value is exact if ``n`` is unknown."""
    other = Estimate(theirs, theirs, theirs, 0)
    if n and math.isfinite(theirs):
        share = percent(rate_of(round(theirs / 100 * n), n))
        # Shifted to the printed percentage, which may not be a share of n.
        moved = theirs - share.value
        other = Estimate(theirs, share.low + moved, share.high + moved, n)
    found = difference_of(mine, other)
    return {"difference": found.value, "difference_low": found.low, "difference_high": found.high}


def difference_of(first: Estimate, second: Estimate) -> Estimate:
    """The difference of two independent shares, by Newcombe's hybrid of their two intervals.

    Newcombe 1998 (Statistics in Medicine 17, 873), method 10 where these are Wilson's.
    """
    value = first.value - second.value
    if not math.isfinite(value):
        return Estimate.undefined("one of the two is undefined")
    low = value - math.hypot(first.value - first.low, second.high - second.value)
    high = value + math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, low, high, min(first.n, second.n))


def derived_table(found: Measured, models: Sequence[str]) -> pd.DataFrame:
    """Leak ratios, recoveries, asymmetry, the base-rate baseline: published and measured.

    The published quantities cover the measured domains only.

    Returns:
        ``quantity, published_model, concept, objective, retained``, ``published`` and the measured
        ``value, low, high, n, reason``. Points are in percent; other quantities have no unit.
    """
    rows: list[dict[str, Any]] = []
    for model in models:
        theirs = {
            row.arm: row.scores[[DOMAINS.index(d) for d in found.domains]] / 100
            for row in published.TABLE
            if row.model == model
        }
        for quantity, key, function, keys, options in _quantities(found.domains):
            if any(one not in theirs and one not in found.rates for one in keys):
                continue
            value = math.nan
            if all(one in theirs for one in keys):
                value = float(function(*(theirs[one] for one in keys), **options))
            missing = [one for one in keys if one not in found.rates]
            mine = Estimate.undefined(_why(found, missing[0])) if missing else None
            mine = mine or derived_from(function, *(found.rates[one] for one in keys), **options)
            if quantity in IN_POINTS:
                value, mine = 100 * value, percent(mine)
            arm = dict(zip(ARM_COLUMNS, (model, *key), strict=True))
            rows.append({"quantity": quantity, **arm, "published": value, **vars(mine)})
    return pd.DataFrame(rows, columns=["quantity", *ARM_COLUMNS, *NUMBERS])


LEAK, RECOVERY, CROSS = "leak ratio", "recovery", "cross drop"
ASYMMETRY, BASE_RATE, PROFILE = "asymmetry", "base-rate baseline", "profile"
IN_POINTS = (CROSS, ASYMMETRY)

Quantity = tuple[str, Key, Any, tuple[Key, ...], dict[str, int]]


def _quantities(domains: Sequence[str]) -> list[Quantity]:
    """(name, its arm, function, the models that the function takes, its options)."""
    place = {domain: number for number, domain in enumerate(domains)}
    found: list[Quantity] = []
    for concept, target in place.items():
        at = {"target": target}
        for objective in (NPO, FINE_TUNING):
            plain: Key = (concept, objective, False)
            retained: Key = (concept, objective, True)
            found += [
                (LEAK, plain, derived.leak_ratio, (BASE_KEY, plain), at),
                (LEAK, retained, derived.leak_ratio, (BASE_KEY, retained), at),
                (BASE_RATE, plain, derived.base_rate_skill, (BASE_KEY, plain), at),
                (RECOVERY, retained, derived.recovery, (BASE_KEY, plain, retained), at),
            ]
        two = (BASE_KEY, (concept, NPO, False), (concept, FINE_TUNING, False))
        found.append((PROFILE, (concept, None, False), derived.profile_correlation, two, at))
    if {"cybersecurity", "safety"} <= set(place):
        c, s = place["cybersecurity"], place["safety"]
        for objective in (NPO, FINE_TUNING):
            of_c: Key = ("cybersecurity", objective, False)
            of_s: Key = ("safety", objective, False)
            both, pair = (BASE_KEY, of_c, of_s), {"first": c, "second": s}
            found += [
                (CROSS, of_c, derived.cross_drop, (BASE_KEY, of_c), {"domain": s}),
                (CROSS, of_s, derived.cross_drop, (BASE_KEY, of_s), {"domain": c}),
                (ASYMMETRY, (None, objective, False), derived.asymmetry, both, pair),
            ]
    return found


def _why(found: Measured, key: Key) -> str:
    return _measured(found, key, found.domains[0]).reason or "not made"


def entanglement_skill(layers: pd.DataFrame, found: Measured) -> pd.DataFrame:
    """Spearman of R3's cosines with the other domains' losses, by layer and plain arm.

    Args:
        layers: ``layer, source, target, cosine`` of the base model.
        found: the measured rows.
    """
    rows = []
    base = found.rates[BASE_KEY]
    for concept, objective, retained in found.arms:
        if retained or concept is None:
            continue
        after = found.rates[concept, objective, False]
        others = [domain for domain in found.domains if domain != concept]
        places = [found.domains.index(domain) for domain in others]
        drop = (base.value - after.value)[places]
        for layer, part in layers[layers["source"] == concept].groupby("layer"):
            cosines = part.set_index("target")["cosine"].reindex(others).to_numpy()
            value = float(derived.rank_correlation(cosines, drop)) if len(others) > 2 else np.nan
            rows.append(
                {"concept": concept, "objective": objective, "layer": layer, "spearman": value}
            )
    return pd.DataFrame(rows, columns=["concept", "objective", "layer", "spearman"])


def _tested(base: Arm) -> set[str]:
    """Domains with harmful test prompts."""
    rows = base.scores[(base.scores["split"] == "test") & (base.scores["label"] == "harmful")]
    return set(rows["domain"])
