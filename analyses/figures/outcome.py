"""Outcome of the target: it answers (complied), or neither refuses nor answers (degenerate)."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np

from analyses.figures.leakage import title_of
from analyses.figures.style import (
    ANSWERS,
    MUTED,
    NEITHER,
    REFUSES,
    VERMILLION,
    domain_label,
    legend_above,
    new_figure,
    styled,
)
from analyses.runs import BASE, FEWEST_ANSWERS, Headline, Run, TargetOutcome, headlines, pick
from interp.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Answers, refuses, neither: by the classes of generated text, and by first-token mass.
# Answers come first, so that the axis gives the ends of their interval.
TEXT = (("answer_rate",), ("refusal_rate",), ("other_rate", "gibberish_rate"))
MASS = (("p_C",), ("p_R",), ("other_mass",))
COLOURS = (ANSWERS, REFUSES, NEITHER)
BADGE_WIDTH = 14  # characters a line: more would meet the next panel of the overview


def _shares(tables: Run, arm: str, domain: str, parts: tuple[tuple[str, ...], ...]) -> list:
    rows = tables.behaviour[tables.behaviour["arm"] == arm]
    return [sum(pick(rows, name, domain).value for name in names) for names in parts]


def _stack(axes: Axes, y: float, shares: list[float], height: float, faint: bool) -> None:
    left = 0.0
    for share, colour in zip(shares, COLOURS, strict=True):
        if np.isfinite(share):
            axes.barh(
                y, share, height, left=left, color=colour, alpha=0.55 if faint else 1,
                edgecolor="white", lw=0.8,
            )  # fmt: skip
            left += share


def outcome_panel(
    axes: Axes, tables: Run, headline: Headline, arms: tuple[str, ...] | None = None
) -> None:
    """Before and after: generated text, and below it, thin, the first-token mass where it is read.

    In a comparison without a concept the rows are the domains, after the change.
    """
    known = {arm.name: arm for arm in tables.record.arms}
    if headline.concept is None:
        rows = [(headline.plain.name, domain, domain_label(domain)) for domain in
                tables.record.domains]  # fmt: skip
    else:
        names = arms or tuple(arm.name for arm in headline.shown)
        rows = [(BASE, headline.concept, "Before")]
        rows += [(name, headline.concept, known[name].label) for name in names]
    for y, (arm, domain, _) in enumerate(rows):
        text = _shares(tables, arm, domain, TEXT)
        _stack(axes, y - 0.1, text, 0.46, faint=False)
        if not tables.by_text:
            _stack(axes, y + 0.26, _shares(tables, arm, domain, MASS), 0.16, faint=True)
        _answer_interval(axes, tables, arm, domain, y)
        if arm in tables.verdicts:
            bad = tables.verdicts[arm].outcome is TargetOutcome.DEGENERATE
            axes.text(
                1.02, y, fill(tables.badge(known[arm]), BADGE_WIDTH), va="center", fontsize=8.5,
                color=VERMILLION if bad else MUTED, weight="bold" if bad else "normal",
            )  # fmt: skip
        elif headline.concept and not np.isfinite(text[0]):
            axes.text(1.02, y, "no text", va="center", fontsize=8.5, color=MUTED)
    broken = [
        label.replace(" + retain ", " +\nretain\n").replace(" + ", " +\n") for *_, label in rows
    ]
    axes.set_yticks(range(len(rows)), broken)
    axes.set_ylim(len(rows) - 0.45, -0.55)
    axes.set_xlim(0, 1)
    of = f"{domain_label(headline.concept)} prompts" if headline.concept else "prompts, after"
    axes.set_xlabel(f"share of {of}" + " (thin: first-token mass)" * (not tables.by_text))
    _legend(axes)


def _answer_interval(axes: Axes, tables: Run, arm: str, domain: str, y: float) -> None:
    """Wilson's interval of the answer rate, drawn where the answers end."""
    rows = tables.behaviour[tables.behaviour["arm"] == arm]
    answer: Estimate = pick(rows, "answer_rate", domain)
    if answer.defined:
        ends = [answer.low, answer.high]
        axes.plot(ends, [y - 0.1] * 2, color="#1f2430", lw=1.2, marker="|", ms=5, clip_on=False)


def _legend(axes: Axes) -> None:
    from matplotlib.patches import Patch

    names = ("answers", "refuses", "neither")
    handles = [Patch(color=colour, label=name) for colour, name in zip(COLOURS, names, strict=True)]
    legend_above(axes, handles)


@styled
def outcome_figure(tables: Run) -> Figure:
    """Every arm of each concept: text classes and first-token mass, before and after."""
    found = headlines(tables.record)
    sizes = [
        2 + len(headline.sweep) if headline.concept else len(tables.record.domains)
        for headline in found
    ]
    figure = new_figure(8, sum(0.48 * size + 1.0 for size in sizes))
    grid = figure.subplots(len(found), 1, squeeze=False, height_ratios=sizes)[:, 0]
    for axes, headline in zip(grid, found, strict=True):
        arms = tuple(arm.name for arm in (headline.plain, *headline.sweep))
        outcome_panel(axes, tables, headline, arms)
        axes.set_title(title_of(headline), pad=20)
    return figure


def outcome_caption(tables: Run) -> str:
    """What the bars are."""
    mass = " Lower bar: probability mass at the first answer position." * (not tables.by_text)
    return (
        f"Upper bar: classes of generated text, with Wilson's interval of the answer rate.{mass} A "
        f"target that stops refusing must answer at least {FEWEST_ANSWERS:.0%} of its prompts, or "
        "it is degenerate. Question mark: an interval contains its threshold."
    )
