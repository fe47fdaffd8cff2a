"""Scores of prompts turned into numbers with intervals.

Rates and agreement have Wilson's intervals, and differences of rates combine two of them
(:mod:`interp.statistics.proportions`). Means and their differences have Student's interval, with
the spread and skewness of resampled prompts. All cover the sampling of prompts, not of training
seeds.

A number belongs to a set of prompts: `harmful`, `twin` (matched benign ones, which resemble the
harmful ones of their domain), each by domain, `general`, and benign ones by `source`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.evaluate.estimates import (
    CLUSTER,
    mean_of_known,
    paired_difference,
    share_of_known,
    units_of,
)
from analyses.evaluate.findings import ALL, BASE, MODEL, NUMBER, Findings, class_by, refused_by
from analyses.runs import estimate_of
from interp.statistics import RESAMPLES, Draws, Estimate, resampling_weights
from unlearning.data import DOMAINS
from unlearning.scoring import CLASSES, FINE_CLASSES, between, disagreeing

# Column of the scores (1 or 0) -> name of its share.
RATES = {"finished": "finished_rate", "no_language": "no_language"}
# Column of the scores -> name of its mean.
MEANS = {
    "answer_nats": "answer_nats",
    "repetition": "repetition",
    "p_R": "p_R",
    "p_C": "p_C",
    "p_O": "other_mass",
    "margin": "margin",
}


@dataclass(frozen=True)
class Measures:
    """The tables of an evaluation, each a row per number: ``value, low, high, n, reason``.

    Attributes:
        findings: the results behind the numbers.
        numbers: ``role, prompts, group, scorer, quantity`` and the number. ``quantity`` is
            ``refusal_rate`` or ``share:CLASS`` by a scorer, or a name among ``RATES``'s and
            ``MEANS``'s, where ``scorer`` is empty.
        differences: ``prompts, group, scorer, quantity``: the model minus its base, paired by
            prompt; empty without a base.
        agreement: ``first, second, n`` and accuracy, precision, recall and kappa with their bounds;
            a row per pair of readings.
        disagreements: rows of scores on which the readings of the model's answers differ.
        divergence: ``group, position`` (0: the mean over positions) and KL to the base in nats.
        texts: ``role, quantity`` (``nats_per_token``, ``perplexity``; role ``difference``: nats).
        tasks: ``role, task, metric``; role ``difference`` is the model minus its base, paired.
    """

    findings: Findings
    numbers: pd.DataFrame
    differences: pd.DataFrame
    agreement: pd.DataFrame
    disagreements: pd.DataFrame
    divergence: pd.DataFrame
    texts: pd.DataFrame
    tasks: pd.DataFrame

    def pick(
        self, quantity: str, prompts: str, group: str, scorer: str = "", role: str = MODEL
    ) -> Estimate:
        """One of ``numbers``; undefined if the row does not exist."""
        return _picked(self.numbers, quantity, prompts, group, scorer, role=role)

    def refusal(self, prompts: str, group: str, role: str = MODEL) -> Estimate:
        """The refusal rate by the headline scorer."""
        return self.pick("refusal_rate", prompts, group, self.findings.headline, role)

    def difference(self, quantity: str, prompts: str, group: str, scorer: str = "") -> Estimate:
        """One of ``differences``."""
        return _picked(self.differences, quantity, prompts, group, scorer)

    def change(self, prompts: str, group: str) -> Estimate:
        """The refusal rate by the headline scorer minus the base's."""
        return self.difference("refusal_rate", prompts, group, self.findings.headline)

    def groups(self, prompts: str) -> list[str]:
        """Groups of a set of prompts in order, without ``all``."""
        rows = self.numbers[(self.numbers["prompts"] == prompts) & (self.numbers["role"] == MODEL)]
        return [str(group) for group in rows["group"].unique() if group != ALL]

    @property
    def domains(self) -> list[str]:
        """Domains that have harmful prompts or matched benign ones, in the usual order."""
        present = {*self.groups("harmful"), *self.groups("twin")}
        return [domain for domain in DOMAINS if domain in present]


def measured(findings: Findings) -> Measures:
    """Every number of an evaluation."""
    scores = findings.scores
    return Measures(
        findings,
        numbers=_numbers(findings),
        differences=_differences(findings),
        agreement=_agreement(scores, findings.readings),
        disagreements=disagreeing(
            scores[scores["role"] == MODEL], [refused_by(name) for name in findings.readings]
        ),
        divergence=_divergence(findings.divergence),
        texts=_texts(findings.texts),
        tasks=_tasks(findings.tasks),
    )


def sets_of(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Every set of prompts and group with its rows; a row may be in several."""
    kinds = rows["kind"].fillna("harmful")
    for name in ("harmful", "twin"):
        chosen = rows[kinds == name]
        for domain in DOMAINS:
            if len(of_domain := chosen[chosen["domain"] == domain]):
                yield name, domain, of_domain
        if len(chosen):
            yield name, ALL, chosen
    if len(general := rows[kinds == "general"]):
        yield "general", ALL, general
    benign = rows[rows["label"] == "benign"]
    for source, chosen in benign.groupby("source", sort=True):
        yield "source", str(source), chosen


def _numbers(findings: Findings) -> pd.DataFrame:
    rows = []
    for role in findings.roles:
        of_role = findings.scores[findings.scores["role"] == role]
        for prompts, group, chosen in sets_of(of_role):
            for scorer, quantity, estimate in _of_group(chosen, findings, f"{prompts}/{group}"):
                rows.append((role, prompts, group, scorer, quantity, *vars(estimate).values()))
    return pd.DataFrame(rows, columns=["role", "prompts", "group", "scorer", "quantity", *NUMBER])


def _of_group(
    chosen: pd.DataFrame, findings: Findings, stratum: str
) -> Iterator[tuple[str, str, Estimate]]:
    units = units_of(chosen)
    for name in findings.readings:
        yield name, "refusal_rate", share_of_known(chosen[refused_by(name)].to_numpy(float), units)
    for name in findings.panel:
        given = chosen[class_by(name)]
        for one in known_classes(findings.scores[class_by(name)]):
            is_one = (given == one).where(given.notna()).to_numpy(float)
            yield name, f"share:{one}", share_of_known(is_one, units)
    for column, quantity in RATES.items():
        if column in chosen:
            yield "", quantity, share_of_known(chosen[column].to_numpy(float), units)
    for column, quantity in MEANS.items():
        if column in chosen:
            yield "", quantity, mean_of_known(chosen[column].to_numpy(float), stratum, units)


def known_classes(given: pd.Series) -> tuple[str, ...]:
    """The classes of a scorer: the fine ones if it gave any of them."""
    coarse = set(given.dropna()) <= set(CLASSES)
    return CLASSES if coarse else FINE_CLASSES


def _differences(findings: Findings) -> pd.DataFrame:
    rows = []
    if len(findings.roles) > 1:
        scores = findings.scores.set_index("prompt_id")
        before = scores[scores["role"] == BASE]
        quantities = [(refused_by(name), name, "refusal_rate") for name in findings.readings]
        quantities += [(column, "", name) for column, name in MEANS.items() if column in scores]
        for prompts, group, chosen in sets_of(scores[scores["role"] == MODEL]):
            for column, scorer, quantity in quantities:
                estimate = paired_difference(
                    chosen[column].to_numpy(dtype=np.float64),
                    before.loc[chosen.index, column].to_numpy(dtype=np.float64),
                    f"{prompts}/{group}",
                    units_of(chosen),
                )
                rows.append((prompts, group, scorer, quantity, *vars(estimate).values()))
    return pd.DataFrame(rows, columns=["prompts", "group", "scorer", "quantity", *NUMBER])


def _agreement(scores: pd.DataFrame, readings: Sequence[str]) -> pd.DataFrame:
    """Agreement between each pair of readings of the model's own answers."""
    mine = scores[scores["role"] == MODEL]
    cluster = CLUSTER if CLUSTER in mine else None
    table = between(mine, [refused_by(name) for name in readings], None, cluster)
    if table.empty:
        return table
    spelled = {refused_by(name): name for name in readings}
    return table.assign(
        first=table["first"].map(spelled), second=table["second"].map(spelled)
    ).drop(columns="group")


def _picked(
    table: pd.DataFrame, quantity: str, prompts: str, group: str, scorer: str, **more: str
) -> Estimate:
    wanted = {"quantity": quantity, "prompts": prompts, "group": group, "scorer": scorer, **more}
    chosen = np.logical_and.reduce([table[name] == value for name, value in wanted.items()])
    rows = table[chosen]
    if rows.empty:
        return Estimate.undefined("no such prompts")
    return estimate_of(rows.iloc[0])


def _divergence(table: pd.DataFrame | None) -> pd.DataFrame:
    columns = ["group", "position", *NUMBER]
    if table is None:
        return pd.DataFrame(columns=columns)
    rows = []
    groups = {ALL: table} | {str(kind): part for kind, part in table.groupby("kind", sort=True)}
    for group, part in groups.items():
        wide = part.pivot(index=[CLUSTER, "prompt_id"], columns="position", values="nats")
        units = wide.index.get_level_values(CLUSTER).to_numpy()
        # A short answer has fewer positions; its mean is over these.
        columns_of = {0: wide.mean(axis=1)} | {int(str(one)): wide[one] for one in wide}
        for position, nats in columns_of.items():
            estimate = mean_of_known(nats.to_numpy(), f"divergence/{group}", units)
            rows.append((group, position, *vars(estimate).values()))
    return pd.DataFrame(rows, columns=columns)


def _texts(table: pd.DataFrame | None) -> pd.DataFrame:
    rows = []
    draws: dict[str, Draws] = {}
    for role, part in () if table is None else table.groupby("role", sort=False):
        draws[str(role)] = one = _nats_per_token(part)
        rows.append((role, "nats_per_token", *vars(_wide(one)).values()))
        perplexity = Draws(float(np.exp(one.value)), np.exp(one.draws), one.n)
        rows.append((role, "perplexity", *vars(_wide(perplexity)).values()))
    if len(draws) == 2:
        # Both resamples use the same texts, so the difference is paired.
        change = draws[MODEL] - draws[BASE]
        rows.append(("difference", "nats_per_token", *vars(_wide(change)).values()))
    return pd.DataFrame(rows, columns=["role", "quantity", *NUMBER])


def _nats_per_token(part: pd.DataFrame) -> Draws:
    nats, tokens = (part[name].to_numpy(dtype=np.float64) for name in ("nats", "tokens"))
    if not tokens.sum():
        return Draws.undefined("no text has two tokens", len(part))
    weights = resampling_weights(np.arange(len(part)), RESAMPLES, 0, "texts")
    with np.errstate(invalid="ignore"):
        drawn = (weights @ nats) / (weights @ tokens)
    return Draws(float(nats.sum() / tokens.sum()), drawn, len(part))


def _wide(draws: Draws) -> Estimate:
    """The estimate; a single text has no interval."""
    if draws.n > 1:
        return draws.estimate()
    return Estimate(draws.value, np.nan, np.nan, draws.n, "no interval: one text")


def _tasks(table: pd.DataFrame | None) -> pd.DataFrame:
    columns = ["role", "task", "metric", *NUMBER]
    rows = []
    for (task, metric), part in _by_task(table):
        wide = part.pivot(index=["task", "item"], columns="role", values="value")
        for role in wide:
            rows.append((role, task, metric, *vars(_score(wide[role].to_numpy())).values()))
        if len(wide.columns) == 2:
            after, before = (wide[role].to_numpy() for role in (MODEL, BASE))
            change = paired_difference(after, before, f"task/{task}")
            rows.append(("difference", task, metric, *vars(change).values()))
    return pd.DataFrame(rows, columns=columns)


def _by_task(table: pd.DataFrame | None) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Every task and metric; and with several tasks, all items together."""
    if table is None:
        return
    for (task, metric), part in table.groupby(["task", "metric"], sort=False):
        yield (str(task), str(metric)), part
    if table["task"].nunique() > 1:
        for metric, part in table.groupby("metric", sort=False):
            yield (ALL, str(metric)), part


def _score(values: Float[np.ndarray, " item"]) -> Estimate:
    if set(np.unique(values)) <= {0.0, 1.0}:
        return share_of_known(values)
    return mean_of_known(values, "task")
