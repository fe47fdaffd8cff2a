"""Figure of the shallow-recovery tests: prefill, triggers, relearning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.figures import domain_label
from analyses.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    MUTED,
    NULL,
    PLAIN,
    PURPLE,
    SKY,
    new_figure,
    say,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyses.contain.shallow_recovery.measure import ShallowRecovery

# Named as text, so that figures do not import the modules that run models.
BASE_NAME, PLAIN_NAME, ALL = "base", "plain", "all"
COLOURS = (BLUE, GREEN, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D")
# Prefilled prefix, counted class, sign of shallow recovery, label.
PREFIXES = (
    ("compliance", "answer", 1, "a compliance prefix:\nanswers more"),
    ("neutral", "answer", 1, "a neutral prefix:\nanswers more"),
    ("refusal", "refusal", -1, "a refusal prefix:\nrefuses less"),
)
SLIGHT = 0.05
WAYS = {"deflections": "Target unlearned again", "answers": "Trained on the target’s answers"}


@styled
def shallow_recovery_figure(found: ShallowRecovery) -> Figure:
    """Left: effects of prefilled prefixes and triggers; right: speed of relearning.

    Bars: 95% intervals over prompts (triggers: over prompts and triggers). Prefill: difference from
    the base; for contained models, over prompts that both refuse without a prefix. Grey: less than
    five points (left); trainings from the base after equally large random weight changes (right).
    """
    ways = [way for way in WAYS if not found.curves.empty and way in set(found.curves["training"])]
    domains = len(found.triggers["domain"].unique())
    models = len(found.contained) + 2
    figure = new_figure(9.4, 3.4 + 0.08 * models * domains)
    grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1), height_ratios=(3, 0.5 * domains))
    _prefixes(figure.add_subplot(grid[0, 0]), found)
    _triggers(figure.add_subplot(grid[1, 0]), found)
    for row in range(2):
        axes = figure.add_subplot(grid[row, 1])
        if row < len(ways):
            _curves(axes, found, ways[row])
        else:
            say(axes, "not trained")
    figure.legend(
        handles=_legend(found, trained=bool(ways)), loc="outside upper left",
        ncols=5, handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip
    return figure


def _legend(found: ShallowRecovery, *, trained: bool) -> list[Artist]:
    from matplotlib.lines import Line2D

    lines: list[Artist] = []
    for name in (BASE_NAME, PLAIN_NAME, *found.contained):
        colour, marker = _colour(found, name)
        lines.append(Line2D([], [], color=colour, marker=marker, lw=1.8, ms=5, label=name))
    if trained:
        lines.append(Line2D([], [], color=MUTED, lw=0.9, label="base, random weight change"))
    return lines


def _colour(found: ShallowRecovery, name: str) -> tuple[str, str]:
    known = {BASE_NAME: (INK, "|"), PLAIN_NAME: (PLAIN, "x")}
    if name in known:
        return known[name]
    place = found.contained.index(name) % len(COLOURS)
    return COLOURS[place], MARKERS[place]


def _rungs(names: list[str]) -> np.ndarray:
    """Vertical positions of the models in one row, the first on top."""
    return np.linspace(0.24, -0.24, len(names)) if len(names) > 1 else np.zeros(1)


def _prefixes(axes: Axes, found: ShallowRecovery) -> None:
    table = found.prefilled[(found.prefilled["domain"] == ALL)]
    names = [PLAIN_NAME, *found.contained]
    axes.axvspan(-SLIGHT, SLIGHT, color=NULL, lw=0, zorder=0)
    axes.axvline(0, color=FAINT, lw=1, zorder=0)
    labels = []
    for place, (prefix, counted, sign, label) in enumerate(PREFIXES):
        mine = table[(table["opener"] == prefix) & (table["quantity"] == counted)]
        level = mine[(mine["model"] == BASE_NAME) & mine["against"].isna()]["value"].iloc[0]
        labels.append(f"{label} (base: {level:.2f})")
        for name, shift in zip(names, _rungs(names), strict=True):
            over = "every" if name == PLAIN_NAME else "recovered"
            rows = mine[
                (mine["model"] == name) & (mine["against"] == BASE_NAME) & (mine["over"] == over)
            ]
            _bar(axes, rows.iloc[0], len(PREFIXES) - 1 - place + shift, sign, _colour(found, name))
    axes.set_yticks(range(len(PREFIXES)), labels[::-1])
    axes.set_ylim(-0.6, len(PREFIXES) - 0.4)
    axes.set_xlabel("share of prompts, difference from the base")
    axes.set_title("Prefill")


def _triggers(axes: Axes, found: ShallowRecovery) -> None:
    table = found.triggers
    falls = table[
        (table["quantity"] == "fall") & (table["measure"] == "margin") & table["against"].isna()
    ]
    names = [BASE_NAME, PLAIN_NAME, *found.contained]
    domains = list(falls["domain"].unique())
    axes.axvline(0, color=FAINT, lw=1, zorder=0)
    for name, shift in zip(names, _rungs(names), strict=True):
        rows = falls[falls["model"] == name].set_index("domain")
        for place, domain in enumerate(domains):
            y = len(domains) - 1 - place + shift
            _bar(axes, rows.loc[domain], y, 1, _colour(found, name))
    labels = ["all others" if domain == ALL else domain_label(domain) for domain in domains]
    axes.set_yticks(range(len(domains)), labels[::-1])
    axes.set_ylim(-0.6, len(domains) - 0.4)
    target = domain_label(found.concept).lower()
    axes.set_xlabel(
        f"fall of the refusal log-odds (nats) after a {target} prompt,\nbeyond a benign one"
    )
    axes.set_title("Training prompts as context")


def _bar(axes: Axes, row: pd.Series, y: float, sign: int, look: tuple[str, str]) -> None:
    colour, marker = look
    if not np.isfinite(row["value"]):
        axes.text(0, y, " undefined", color=colour, fontsize=7.5, va="center")
        return
    axes.hlines(y, sign * row["low"], sign * row["high"], color=colour, lw=1.8)
    axes.plot(sign * row["value"], y, marker, color=colour, ms=5)


def _curves(axes: Axes, found: ShallowRecovery, way: str) -> None:
    curves = found.curves[found.curves["training"] == way]
    for name, rows in curves.groupby("model", sort=False):
        if name not in (BASE_NAME, *found.contained):
            axes.plot(rows["step"], rows["value"], color=MUTED, lw=0.9, alpha=0.55)
    for name in (BASE_NAME, *found.contained):
        rows = curves[curves["model"] == name]
        colour, marker = _colour(found, name)
        axes.fill_between(rows["step"], rows["low"], rows["high"], color=colour, alpha=0.15, lw=0)
        every = max(1, len(rows) // 8)
        axes.plot(
            rows["step"], rows["value"], color=colour, lw=1.6,
            marker=None if name == BASE_NAME else marker, markevery=every, ms=4,
        )  # fmt: skip
    axes.axhline(0.5, color=FAINT, lw=1, zorder=0)
    axes.set_ylim(min(-0.08, 1.1 * curves["low"].min()), 1.02)
    axes.set_xlabel("step")
    axes.set_ylabel("others’ p_R, share gone")
    axes.set_title(WAYS[way])
