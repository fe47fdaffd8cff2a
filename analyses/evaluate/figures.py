"""Figures of one model's evaluation: functions of its findings and measures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from analyses.evaluate.findings import ALL, BASE, MODEL, Findings
from analyses.evaluate.measures import Measures
from analyses.evaluate.panels import AROUND, MARKERS, ROW, Series, class_panel, dot_panel
from analyses.figures import DOMAIN_COLOURS, Drawing, domain_label
from analyses.figures.style import (
    BLUE,
    FAINT,
    MUTED,
    NULL,
    VERMILLION,
    legend_above,
    new_figure,
    styled,
)
from analyses.report import estimate_of
from interp.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HARMFUL, BENIGN = VERMILLION, BLUE


def _rows(measures: Measures) -> list[tuple[str, str]]:
    """(domain or ``general`` or ``all``, as it is read) of an overview."""
    rows = [(domain, domain_label(domain)) for domain in measures.domains]
    if measures.pick("finished_rate", "general", ALL).defined:
        rows.append(("general", "General"))
    return rows


def _by_row(
    measures: Measures, quantity: str, kind: str, scorer: str = "", role: str = MODEL
) -> list[Estimate]:
    """``harmful`` or ``benign`` prompts of every row; general ones are benign."""
    found = []
    for row, _label in _rows(measures):
        if row == "general":
            prompts, group = ("general", ALL) if kind == "benign" else ("", "")
        else:
            prompts, group = ("twin" if kind == "benign" else "harmful"), row
        found.append(measures.pick(quantity, prompts, group, scorer, role))
    return found


def _two_kinds(
    findings: Findings, measures: Measures, quantity: str, scorer: str = ""
) -> list[Series]:
    """Harmful and benign prompts under the model, and paler under its base."""
    looks = {MODEL: ("", {"harmful": HARMFUL, "benign": BENIGN}), BASE: (", base", {})}
    series = []
    for kind in ("harmful", "benign"):
        for role in findings.roles:
            suffix, colours = looks[role]
            estimates = _by_row(measures, quantity, kind, scorer, role)
            if any(estimate.defined for estimate in estimates):
                colour = colours.get(kind, MUTED)
                marker = "o" if role == MODEL else "s"
                series.append(Series(kind + suffix, estimates, colour, kind == "harmful", marker))
    return series


@styled
def evaluation_overview_figure(findings: Findings, measures: Measures) -> Figure:
    """What is refused, what the answers to harmful prompts are, and whether they are language."""
    rows = _rows(measures)
    labels = [label for _, label in rows]
    figure = new_figure(12.5, AROUND + ROW * len(rows) + 0.3)
    refusal, classes, coherence = figure.subplots(1, 3, width_ratios=[1.15, 1, 1])
    dot_panel(refusal, labels, _two_kinds(findings, measures, "refusal_rate", findings.headline))
    refusal.set_xlim(-0.02, 1.02)
    refusal.set_xlabel(f"share refused, by {findings.headline}")
    refusal.set_title("Refuses", pad=32)
    legend_above(refusal)
    kinds = [("general", ALL) if row == "general" else ("harmful", row) for row, _ in rows]
    class_panel(classes, findings, measures, kinds)
    classes.set_yticks(range(len(rows)), [""] * len(rows))
    classes.set_xlabel("share of answers (harmful prompts; general as they are)")
    classes.set_title("Says", pad=32)
    nats = _two_kinds(findings, measures, "answer_nats")
    if nats:
        dot_panel(coherence, [""] * len(rows), nats)
        under = "its base" if findings.plan.base else "the model itself"
        ends = [one.high if one.low <= one.high else one.value for s in nats for one in s.estimates]
        highest = max(end for end in ends if np.isfinite(end))
        coherence.set_xlabel(f"nats per token of the answers, under {under}")
        coherence.set_xlim(-0.02 * highest, 1.06 * highest)
        legend_above(coherence)
    else:
        dot_panel(coherence, [""] * len(rows), _two_kinds(findings, measures, "repetition"))
        coherence.set_xlabel("share of word 4-grams repeated")
    coherence.set_title("Still speaks", pad=32)
    return figure


@styled
def classes_figure(findings: Findings, measures: Measures) -> Figure:
    """Classes of the answers to harmful prompts and to benign ones."""
    rows = _rows(measures)
    figure = new_figure(10, AROUND + ROW * len(rows) + 0.3)
    left, right = figure.subplots(1, 2)
    harmful = [(row, label) for row, label in rows if row != "general"]
    class_panel(left, findings, measures, [("harmful", row) for row, _ in harmful])
    left.set_yticks(range(len(harmful)), [label for _, label in harmful])
    benign = [("general", ALL) if row == "general" else ("twin", row) for row, _ in rows]
    class_panel(right, findings, measures, benign)
    right.set_yticks(range(len(rows)), [label for _, label in rows])
    for axes, title in ((left, "Harmful prompts"), (right, "Benign prompts")):
        axes.set_title(title, pad=32)
        axes.set_xlabel(f"share of answers, by {findings.headline}")
    return figure


@styled
def panel_figure(findings: Findings, measures: Measures) -> Figure:
    """The refusal rate as every reading has it: how much hangs on the scorer."""
    rows = _rows(measures)
    readings = findings.readings
    figure = new_figure(10, AROUND + (ROW + 0.05 * len(readings)) * len(rows))
    grid = figure.subplots(1, 2, sharey=True)
    for axes, kind in zip(grid, ("harmful", "benign"), strict=True):
        series = [
            Series(
                name,
                _by_row(measures, "refusal_rate", kind, name),
                DOMAIN_COLOURS[i % len(DOMAIN_COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
            )
            for i, name in enumerate(readings)
        ]
        dot_panel(axes, [label for _, label in rows], series)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"share refused, {kind} prompts")
        legend_above(axes)
    return figure


@styled
def sources_figure(findings: Findings, measures: Measures) -> Figure:
    """Over-refusal by where the benign prompts come from."""
    sources = measures.groups("source")
    estimates = [
        measures.pick("refusal_rate", "source", name, findings.headline) for name in sources
    ]
    figure = new_figure(6.5, AROUND + ROW * len(sources))
    axes = figure.subplots()
    dot_panel(axes, sources, [Series("", estimates, BENIGN, filled=False)])
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"share of benign prompts refused, by {findings.headline}")
    return figure


@styled
def difference_figure(findings: Findings, measures: Measures) -> Figure:
    """The model minus its base, prompt by prompt."""
    rows = _rows(measures)
    figure = new_figure(7, AROUND + ROW * len(rows))
    axes = figure.subplots()
    axes.axvline(0, color=FAINT, lw=1)
    series = []
    for kind, colour in (("harmful", HARMFUL), ("benign", BENIGN)):
        estimates = []
        for row, _label in rows:
            prompts, group = ("twin" if kind == "benign" else "harmful"), row
            if row == "general":
                prompts, group = ("general" if kind == "benign" else "", ALL)
            estimates.append(measures.difference("refusal_rate", prompts, group, findings.headline))
        series.append(Series(kind, estimates, colour, kind == "harmful"))
    dot_panel(axes, [label for _, label in rows], series)
    axes.set_xlabel("refusal rate minus the base's, same prompts")
    legend_above(axes)
    return figure


@styled
def divergence_figure(measures: Measures) -> Figure:
    """KL to the base at every position of the base's own answers."""
    table = measures.divergence[measures.divergence["position"] > 0].dropna(subset="value")
    figure = new_figure(6.5, 3.2)
    axes = figure.subplots()
    looks = {"twin": ("twins", BLUE), "general": ("general", VERMILLION), ALL: ("benign", BLUE)}
    groups = [group for group in ("twin", "general") if (table["group"] == group).any()] or [ALL]
    for group in groups:
        rows = table[table["group"] == group]
        label, colour = looks[group]
        axes.fill_between(
            rows["position"], rows["low"], rows["high"], color=colour, alpha=0.15, lw=0
        )
        axes.plot(rows["position"], rows["value"], color=colour, marker="o", ms=4, label=label)
    axes.set_xlabel("position in the base's answer")
    axes.set_ylabel("KL(base ‖ model), nats")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:.2g}")
    axes.set_xticks(sorted(set(table["position"])))
    axes.grid(axis="y", color=NULL)
    legend_above(axes)
    return figure


@styled
def tasks_figure(measures: Measures) -> Figure:
    """Scores on tasks with right answers."""
    table = measures.tasks
    keys = table[["task", "metric"]].drop_duplicates().itertuples(index=False)
    pairs = [(str(task), str(metric)) for task, metric in keys]
    looks = {MODEL: ("model", VERMILLION, "o"), BASE: ("base", MUTED, "s")}
    series = []
    for role, (label, colour, marker) in looks.items():
        of_role = table[table["role"] == role].set_index(["task", "metric"])
        if of_role.empty:
            continue
        estimates = [
            estimate_of(of_role.loc[pair])
            if pair in of_role.index
            else Estimate.undefined("no such score")
            for pair in pairs
        ]
        series.append(Series(label, estimates, colour, marker=marker))
    figure = new_figure(6.5, AROUND + ROW * len(pairs))
    axes = figure.subplots()
    dot_panel(axes, [f"{task} ({metric})" for task, metric in pairs], series)
    axes.set_xlabel("score")
    legend_above(axes)
    return figure


def evaluation_drawings(findings: Findings, measures: Measures) -> Iterator[Drawing]:
    """The figures that this evaluation has something for."""
    numbers = measures.numbers
    rates = numbers[numbers["quantity"] == "refusal_rate"]
    yield Drawing(
        "overview",
        "Overview",
        "Left: filled, harmful prompts; hollow, benign ones (twins of the domain, general). "
        "Middle: classes of the answers. Right: how surprising the answers are, and so whether "
        "they are still language. Bars: 95% intervals over prompts.",
        evaluation_overview_figure(findings, measures),
        numbers,
    )
    yield Drawing(
        "classes",
        "What is said instead",
        f"Classes of the answers, by {findings.headline}. Black bar: Wilson's interval of the "
        "refusal rate.",
        classes_figure(findings, measures),
        numbers[numbers["quantity"].str.startswith("share:")],
    )
    if len(findings.readings) > 1:
        yield Drawing(
            "panel",
            "The same answers, read by each scorer",
            "Where intervals of two readings do not meet, what is reported hangs on the scorer.",
            panel_figure(findings, measures),
            rates[rates["role"] == MODEL],
        )
    if len(measures.groups("source")) > 1:
        yield Drawing(
            "sources",
            "Over-refusal by source",
            "Share of benign prompts that are refused, by where they come from.",
            sources_figure(findings, measures),
            rates[(rates["prompts"] == "source") & (rates["role"] == MODEL)],
        )
    if len(measures.differences):
        yield Drawing(
            "difference",
            "Against the base",
            "Paired by prompt. Filled: harmful prompts; hollow: benign ones. Bars: 95% intervals "
            "over resampled prompts.",
            difference_figure(findings, measures),
            measures.differences,
        )
    if len(measures.divergence):
        yield Drawing(
            "divergence",
            "How far it moved where nothing should change",
            "KL divergence from the base along the base's own answers to benign prompts, with 95% "
            "intervals over prompts.",
            divergence_figure(measures),
            measures.divergence,
        )
    if len(measures.tasks):
        yield Drawing(
            "tasks",
            "Tasks with right answers",
            "Scores with 95% intervals over items.",
            tasks_figure(measures),
            measures.tasks,
        )
