"""Leakage: off-target loss of refusal at one forgetting level, and as a function of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.figures.style import (
    CONTAINED,
    DOMAIN_COLOURS,
    FAINT,
    INK,
    MUTED,
    NULL,
    PLAIN,
    domain_label,
    legend_above,
    new_figure,
    say,
    styled,
)
from analyses.runs import UNTOUCHED_WITHIN, Arm, Headline, Run, headlines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEGEND = 3  # columns
EDGE = 1.02  # position of the column of base rates, in axes coordinates


def shown_quantity(arm: Arm) -> str:
    """L_90 if the arm has a curve, else the drop between the two models."""
    return "L_90" if arm.matched else "drop"


def leakage_panel(
    axes: Axes, tables: Run, headline: Headline, arms: tuple[Arm, ...] | None = None
) -> None:
    """Dots with intervals: one row per off-target domain, with its base rate; one mark per arm."""
    arms = arms or headline.shown
    domains = [domain for domain in tables.record.domains if domain != headline.concept]
    quantity = shown_quantity(headline.plain)
    rows = tables.leakage[tables.leakage["quantity"] == quantity]
    axes.axvspan(-UNTOUCHED_WITHIN, UNTOUCHED_WITHIN, color=NULL, lw=0)
    axes.axvline(0, color=FAINT, lw=1)
    reach_of_arms = 0.28 if len(arms) > 2 else 0.15
    offsets = np.linspace(-reach_of_arms, reach_of_arms, len(arms)) if len(arms) > 1 else [0.0]
    lowest, highest = -0.08, 1.0
    drawn: list[tuple[float, float]] = []
    for place, arm in enumerate(arms):
        of_arm = rows[rows["arm"] == arm.name].set_index("domain").reindex(domains)
        colour, marker = (CONTAINED, "D") if arm.retain else (PLAIN, "o")
        fade = 1.0 if arm in headline.shown else 0.45
        doubt = _doubt(tables, arm)
        y = np.arange(len(domains)) + offsets[place]
        value = of_arm["value"].to_numpy(dtype=float)
        reach = np.abs(of_arm[["low", "high"]].to_numpy(dtype=float) - value[:, None]).T
        # A mark without an interval has no bars.
        axes.errorbar(
            value, y, xerr=np.nan_to_num(reach), fmt=marker, color=colour, ms=5.5, lw=1.6,
            alpha=fade, mfc="white" if doubt else colour,
            label=arm.label + (f" ({doubt})" if doubt else ""),
        )  # fmt: skip
        if np.isfinite(value).any():
            lowest = min(lowest, float(np.nanmin(of_arm["low"].fillna(0))) - 0.03)
            highest = max(highest, float(np.nanmax(of_arm["high"].fillna(0))) + 0.03)
        drawn += [(float(one), at) for one, at in zip(value, y, strict=True) if np.isfinite(one)]
    for other in headline.others:
        elsewhere = rows[rows["arm"] == other.name].set_index("domain")["value"].reindex(domains)
        axes.plot(
            elsewhere, np.arange(len(domains)) + offsets[0], "|", color=PLAIN, ms=7, alpha=0.6
        )
    _base_rates(axes, rows[rows["arm"] == headline.plain.name], domains, tables)
    held = headline.contained.retain if headline.contained and headline.contained.retain else ()
    labels = [domain_label(domain) + (" ᴿ" if domain in held else "") for domain in domains]
    axes.set_yticks(range(len(domains)), labels)
    axes.set_ylim(len(domains) - 0.45, -0.55)
    left, right = axes.set_xlim(max(lowest, -0.6), min(highest, 1.4))
    for one, at in drawn:  # marks beyond the axis are written at its end
        if not left <= one <= right:
            end, ha = (left, "left") if one < left else (right, "right")
            axes.text(end, at, f"{one:.1f}", ha=ha, va="center", fontsize=7)
    axes.grid(axis="x")
    refusal = "refusal, in text," if tables.by_text else "first-token refusal"
    axes.set_xlabel(
        f"{refusal} lost when {domain_label(headline.concept).lower()} has lost 90%"
        if headline.concept and quantity == "L_90"
        else "share of refusal lost"
    )
    legend_above(axes)


def _doubt(tables: Run, arm: Arm) -> str:
    """Why an arm has no leakage, or a leakage whose target does not comply."""
    if not arm.matched:
        return ""
    if why := tables.no_level(arm):
        return why
    return "" if tables.verdicts[arm.name].answers else "does not comply"


def _base_rates(axes: Axes, rows: pd.DataFrame, domains: list[str], tables: Run) -> None:
    """Write the base rate of each domain at the right edge; a loss is relative to it."""
    across = axes.get_yaxis_transform()
    name = "refused before" if tables.by_text else "p_R before"
    axes.text(EDGE, -0.62, name, transform=across, color=MUTED, fontsize=7.5)
    for place, domain in enumerate(domains):
        found = rows[rows["domain"] == domain]
        if found.empty:
            continue
        row = found.iloc[0]
        axes.text(
            EDGE, place, f"{row['base_rate']:.2f}", transform=across, va="center", fontsize=8,
            color=MUTED,
        )  # fmt: skip
        if row["low_base"]:
            note = "low base" if tables.by_text else "low base: log-odds only"
            axes.text(0.02, place, note, va="center", fontsize=8, color=MUTED, style="italic")


@styled
def leakage_figure(tables: Run) -> Figure:
    """Every arm of each concept's first seed, at the same forgetting level."""
    from matplotlib.transforms import blended_transform_factory

    found = headlines(tables.record)
    height = 0.52 * len(tables.record.domains) + 0.9
    legend = 0.1 + 0.2 * math.ceil(max(len((one.plain, *one.sweep)) for one in found) / LEGEND)
    figure = new_figure(max(5.2 * len(found), 6), height + legend)
    # The bottom of the figure is for legends alone, even where the panels are short.
    share = legend / (height + legend)
    figure.get_layout_engine().set(rect=(0, share, 1, 1 - share))  # type: ignore[union-attr, call-arg]
    for axes, headline in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        leakage_panel(axes, tables, headline, (headline.plain, *headline.sweep))
        axes.set_title(title_of(headline), pad=18)
        across = blended_transform_factory(axes.transAxes, figure.transFigure)
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, share), bbox_transform=across, ncols=LEGEND,
            columnspacing=1,
        ).set_in_layout(False)  # fmt: skip
    return figure


def title_of(headline: Headline) -> str:
    """The unlearned concept, or the compared model."""
    if headline.concept is None:
        return headline.plain.label
    return f"{domain_label(headline.concept)} unlearned"


@styled
def forgetting_curve_figure(tables: Run) -> Figure:
    """u_b against the forgetting level ū_a; on the diagonal u_b = ū_a."""
    found = [headline for headline in headlines(tables.record) if headline.plain.matched]
    columns = max((len(headline.shown) for headline in found), default=1)
    figure = new_figure(4.6 * columns + 1.4, max(3.4 * len(found), 3))
    grid = figure.subplots(max(len(found), 1), columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat:
        axes.set_visible(False)
    colours = dict(zip(tables.record.domains, DOMAIN_COLOURS * 9, strict=False))
    for line, headline in zip(grid, found, strict=False):
        for axes, arm in zip(line, headline.shown, strict=False):
            axes.set_visible(True)
            of_arm = tables.curves[tables.curves["arm"] == arm.name]
            curves_panel(axes, of_arm, headline.concept, colours)
            axes.set_title(f"{title_of(headline)}: {arm.label}")
    if found:
        curves_legend(figure, colours)
    else:
        say(grid[0][0], "no concept was unlearned here, so no forgetting level exists")
        grid[0][0].set_visible(True)
    return figure


def curves_legend(figure: Figure, colours: dict[str, str]) -> None:
    """Draw the legend of the leakage curves at the right."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=MUTED, lw=1, ls=(0, (4, 3)), label="same rate"),
        Line2D([], [], color=INK, lw=2.2, ls=":", label="target"),
    ]
    handles += [
        Line2D([], [], color=colour, lw=1.5, label=domain_label(domain))
        for domain, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside right center")


def curves_panel(
    axes: Axes, curves: pd.DataFrame, concept: str | None, colours: dict[str, str]
) -> None:
    """One arm's leakage curves with their intervals; the target's is dotted."""
    axes.plot([0, 1], [0, 1], color=MUTED, lw=1, ls=(0, (4, 3)))
    axes.axhspan(-UNTOUCHED_WITHIN, UNTOUCHED_WITHIN, color=NULL, lw=0)
    for domain, path in curves[~(curves["base_rate"] < 0.2)].groupby("domain", sort=False):
        path = path.sort_values("step")
        target = domain == concept
        colour = INK if target else colours[str(domain)]
        axes.fill_between(path["dose"], path["low"], path["high"], color=colour, alpha=0.12, lw=0)
        axes.plot(
            path["dose"], path["value"], color=colour, lw=2.2 if target else 1.5,
            ls=":" if target else "-",
        )  # fmt: skip
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.12, 1.05)
    axes.grid()
    axes.set_xlabel("forgetting level: target's refusal lost (validation, running maximum)")
    axes.set_ylabel("refusal lost (test)")
