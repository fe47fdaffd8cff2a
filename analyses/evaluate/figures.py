"""Figures of one model's evaluation: functions of its measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from analyses.evaluate.findings import ALL, BASE, MODEL
from analyses.evaluate.measures import Measures
from analyses.evaluate.panels import (
    AROUND,
    MARKERS,
    ROW,
    Panel,
    Series,
    class_panel,
    quantity_panel,
)
from analyses.figures import DOMAIN_COLOURS, Drawing, domain_label
from analyses.figures.style import BLUE, MUTED, NULL, VERMILLION, legend_above, new_figure, styled
from analyses.runs import estimate_of
from interp.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = {"harmful": VERMILLION, "benign": BLUE}


def _rows(measures: Measures) -> dict[str, str]:
    """Domains and ``general``, with their labels."""
    rows = {domain: domain_label(domain) for domain in measures.domains}
    if measures.pick("finished_rate", "general", ALL).defined:
        rows["general"] = "General"
    return rows


def _cells(measures: Measures, kind: str) -> list[tuple[str, str]]:
    """Prompts and group of every row: ``harmful`` or ``benign`` ones; general ones are benign."""
    general = ("general", ALL) if kind == "benign" else ("", "")
    own = "twin" if kind == "benign" else "harmful"
    return [general if row == "general" else (own, row) for row in _rows(measures)]


def _two_kinds(measures: Measures, quantity: str, scorer: str = "") -> list[Series]:
    """Harmful and benign prompts under the model, and paler under its base."""
    series = []
    for kind, colour in KINDS.items():
        for role in measures.findings.roles:
            look = (colour, "o", "") if role == MODEL else (MUTED, "s", ", base")
            estimates = [
                measures.pick(quantity, *cell, scorer, role) for cell in _cells(measures, kind)
            ]
            if any(estimate.defined for estimate in estimates):
                hue, marker, suffix = look
                series.append(Series(kind + suffix, estimates, hue, kind == "harmful", marker))
    return series


@styled
def dots_figure(labels: Sequence[str], *panels: Panel, width: float, row: float = ROW) -> Figure:
    """A row for each label, a panel for each quantity, side by side."""
    figure = new_figure(width, AROUND + row * len(labels))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel in zip(grid, panels, strict=True):
        quantity_panel(axes, labels, panel)
    return figure


@styled
def evaluation_overview_figure(measures: Measures) -> Figure:
    """Refusal rates, classes of the answers to harmful prompts, and coherence."""
    rows, findings = _rows(measures), measures.findings
    figure = new_figure(12.5, AROUND + ROW * len(rows) + 0.3)
    refusal, classes, coherence = figure.subplots(1, 3, width_ratios=[1.15, 1, 1])
    rates = _two_kinds(measures, "refusal_rate", findings.headline)
    quantity_panel(
        refusal, list(rows.values()), Panel(f"share refused, by {findings.headline}", rates)
    )
    kinds = [("general", ALL) if row == "general" else ("harmful", row) for row in rows]
    class_panel(classes, measures, kinds)
    classes.set_yticks(range(len(rows)), [""] * len(rows))
    classes.set_xlabel("share of answers (harmful prompts; last row: general prompts)")
    nats = _two_kinds(measures, "answer_nats")
    if nats:
        under = "its base" if findings.plan.base else "the model itself"
        ends = [one.high if one.low <= one.high else one.value for s in nats for one in s.estimates]
        highest = max(end for end in ends if np.isfinite(end))
        label = f"nats per token of the answers, under {under}"
        panel = Panel(label, nats, limits=(-0.02 * highest, 1.06 * highest))
    else:
        repeated = _two_kinds(measures, "repetition")
        panel = Panel("share of word 4-grams repeated", repeated, limits=None, legend=False)
    quantity_panel(coherence, [""] * len(rows), panel)
    titles = {refusal: "Refusal", classes: "Classes of answers", coherence: "Coherence"}
    for axes, title in titles.items():
        axes.set_title(title, pad=32)
    return figure


@styled
def classes_figure(measures: Measures) -> Figure:
    """Classes of the answers to harmful prompts and to benign ones."""
    rows = _rows(measures)
    figure = new_figure(10, AROUND + ROW * len(rows) + 0.3)
    for axes, kind in zip(figure.subplots(1, 2), KINDS, strict=True):
        cells = dict(zip(rows.values(), _cells(measures, kind), strict=True))
        shown = {label: cell for label, cell in cells.items() if cell[0]}
        class_panel(axes, measures, list(shown.values()))
        axes.set_yticks(range(len(shown)), list(shown))
        axes.set_title(f"{kind.capitalize()} prompts", pad=32)
        axes.set_xlabel(f"share of answers, by {measures.findings.headline}")
    return figure


def panel_figure(measures: Measures) -> Figure:
    """The refusal rate by each scorer, which shows how much it depends on the scorer."""
    readings = measures.findings.readings
    panels = []
    for kind in KINDS:
        series = [
            Series(
                name,
                [measures.pick("refusal_rate", *cell, name) for cell in _cells(measures, kind)],
                DOMAIN_COLOURS[i % len(DOMAIN_COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
            )
            for i, name in enumerate(readings)
        ]
        panels.append(Panel(f"share refused, {kind} prompts", series))
    labels = list(_rows(measures).values())
    return dots_figure(labels, *panels, width=10, row=ROW + 0.05 * len(readings))


def sources_figure(measures: Measures) -> Figure:
    """Over-refusal by source of the benign prompts."""
    sources = measures.groups("source")
    rates = [measures.refusal("source", name) for name in sources]
    label = f"share of benign prompts refused, by {measures.findings.headline}"
    panel = Panel(label, [Series("", rates, KINDS["benign"], filled=False)], legend=False)
    return dots_figure(sources, panel, width=6.5)


def difference_figure(measures: Measures) -> Figure:
    """The model minus its base, prompt by prompt."""
    series = [
        Series(
            kind, [measures.change(*cell) for cell in _cells(measures, kind)], colour,
            kind == "harmful",
        )
        for kind, colour in KINDS.items()
    ]  # fmt: skip
    panel = Panel("refusal rate minus the base's, same prompts", series, limits=None, zero=True)
    return dots_figure(list(_rows(measures).values()), panel, width=7)


def tasks_figure(measures: Measures) -> Figure:
    """Scores on tasks with right answers."""
    table = measures.tasks.set_index(["task", "metric"])
    keys = list(table.index.unique())
    series = []
    for role, colour, marker in ((MODEL, VERMILLION, "o"), (BASE, MUTED, "s")):
        known = {key: estimate_of(row) for key, row in table[table["role"] == role].iterrows()}
        if known:
            estimates = [known.get(key, Estimate.undefined("no such score")) for key in keys]
            series.append(Series(role, estimates, colour, marker=marker))
    labels = [f"{task} ({metric})" for task, metric in keys]
    return dots_figure(labels, Panel("score", series, limits=None), width=6.5)


@styled
def divergence_figure(measures: Measures) -> Figure:
    """KL to the base at every position of the base's own answers."""
    table = measures.divergence[measures.divergence["position"] > 0].dropna(subset="value")
    figure = new_figure(6.5, 3.2)
    axes = figure.subplots()
    looks = {
        "twin": ("matched benign", BLUE),
        "general": ("general", VERMILLION),
        ALL: ("benign", BLUE),
    }
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


def evaluation_drawings(measures: Measures) -> Iterator[Drawing]:
    """The figures for which this evaluation has data."""
    findings, numbers = measures.findings, measures.numbers
    rates = numbers[(numbers["quantity"] == "refusal_rate") & (numbers["role"] == MODEL)]
    yield Drawing(
        "overview",
        "Overview",
        "Left: filled, harmful prompts; hollow, benign ones (matched, general). "
        "Middle: classes of the answers. Right: coherence (nats per token or repetition). "
        "Bars: 95% intervals over prompts.",
        evaluation_overview_figure(measures),
        numbers,
    )
    yield Drawing(
        "classes",
        "Classes of the answers",
        f"Classes of the answers, by {findings.headline}. Black bar: Wilson's interval of the "
        "refusal rate.",
        classes_figure(measures),
        numbers[numbers["quantity"].str.startswith("share:")],
    )
    if len(findings.readings) > 1:
        yield Drawing(
            "panel",
            "The same answers, read by each scorer",
            "Refusal rate by scorer, with 95% intervals over prompts. If two intervals do not "
            "overlap, the result depends on the scorer.",
            panel_figure(measures),
            rates,
        )
    if len(measures.groups("source")) > 1:
        yield Drawing(
            "sources",
            "Over-refusal by source",
            "Share of benign prompts refused, by source, with 95% intervals over prompts.",
            sources_figure(measures),
            rates[rates["prompts"] == "source"],
        )
    if len(measures.differences):
        yield Drawing(
            "difference",
            "Change from the base",
            "Paired by prompt. Filled: harmful prompts; hollow: benign ones. Bars: 95% intervals "
            "over prompts.",
            difference_figure(measures),
            measures.differences,
        )
    if len(measures.divergence):
        yield Drawing(
            "divergence",
            "Divergence from the base on benign prompts",
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
