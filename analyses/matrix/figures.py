"""Leakage matrices of several worlds or models: their mean and their spread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.figures import COLOURS, DARK_FROM, PARTS, SHOWN, domain_label, run_matrix_figure
from analyses.figures.style import FAINT, INK, MUTED, NULL, new_figure, say, styled
from analyses.runs import SHARE_KEYS, Decomposition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyses.runs import LeakageMatrix


def leakage_matrix_figure(
    matrix: LeakageMatrix,
    run: str | None = None,
    quantity: str = "area",
    objective: str | None = None,
) -> Figure:
    """The matrix of one run with its parts and noise, or the summary of several runs."""
    if run is None and len(matrix.runs) > 1:
        return worlds_figure(matrix, quantity, objective)
    return run_matrix_figure(matrix, run or next(iter(matrix.runs)), quantity, objective)


@styled
def worlds_figure(
    matrix: LeakageMatrix, quantity: str = "area", objective: str | None = None
) -> Figure:
    """Shares of the three parts, source and target effects by domain, and the mean matrix.

    Small marks are worlds, large ones their mean with Student's 95% interval over worlds. In the
    matrix, a bar below a number marks an interval that contains 0.
    """
    pooled = matrix.pooled(quantity, objective)
    parts = _parts(matrix, pooled["skipped"], quantity, objective)
    domains = list(pooled["cells"])
    figure = new_figure(0.62 * len(domains) + 7.2, 0.36 * len(domains) + 4.2)
    if not parts:
        say(figure.subplots(), "too few sources reached the level in every run")
        return figure
    panels = figure.subplots(2, 2, width_ratios=[1, 1.45], height_ratios=[1, 1.15])
    (shares, mean), (source_effects, target_effects) = panels
    shares.set_title(f"Shares of the variance, {len(parts)} worlds")
    rows = [name for name in PARTS if pooled["shares"][SHARE_KEYS[name]]["value"] is not None]
    for place, name in enumerate(reversed(rows)):
        each = [getattr(found, f"{name}_share") for found in parts.values()]
        _row(shares, place, each, pooled["shares"][SHARE_KEYS[name]], PARTS[name][1])
    shares.set_yticks(range(len(rows)), [PARTS[name][0] for name in reversed(rows)])
    shares.set_xlabel("share of the variance over cells")
    for axes, which, title in (
        (source_effects, "source_effect", "Source effect: loss in all targets"),
        (target_effects, "target_effect", "Target effect: loss for all sources"),
    ):
        for place, domain in enumerate(reversed(domains)):
            each = [getattr(found, which).get(domain, np.nan) for found in parts.values()]
            _row(axes, place, each, pooled[SHARE_KEYS[which]][domain], PARTS[which][1])
        names = [domain_label(domain) for domain in reversed(domains)]
        axes.set_yticks(range(len(domains)), names)
        axes.set_title(title)
        axes.set_xlabel("above or below the mean cell")
    _mean_matrix(mean, pooled["cells"], quantity)
    return figure


def _parts(
    matrix: LeakageMatrix, skipped: list[str], quantity: str, objective: str | None
) -> dict[str, Decomposition]:
    names = [run for run in matrix.runs if run not in skipped]
    return {run: matrix.decomposition(run, quantity, objective) for run in names}


def _row(
    axes: Axes, place: float, worlds: list[float], pooled: dict[str, Any], colour: str
) -> None:
    """One quantity: a mark per world, their mean and its interval."""
    spread = np.linspace(-0.22, 0.22, len(worlds))
    axes.axvline(0, color=FAINT, lw=0.8, zorder=0)
    axes.plot(worlds, place + spread, "o", color=colour, alpha=0.35, ms=3.2, mew=0)
    if pooled["value"] is None:
        return
    if pooled["low"] is not None:
        axes.hlines(place, pooled["low"], pooled["high"], color=colour, lw=2)
    axes.plot(pooled["value"], place, "D", color=colour, ms=5.5, mec="white", mew=0.8)


def _mean_matrix(axes: Axes, cells: dict[str, dict[str, Any]], quantity: str) -> None:
    domains = list(cells)
    values = np.array(
        [[cells[a].get(b, {}).get("value") for b in domains] for a in domains], dtype=np.float64
    )
    scale = max(1.0, float(np.nanmax(values, initial=0.0)))
    axes.set_facecolor(NULL)
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=COLOURS, vmin=0, vmax=scale, aspect="auto"
    )
    for (i, j), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        cell = cells[domains[i]][domains[j]]
        colour = "white" if value > DARK_FROM * scale else INK
        axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
        if cell["low"] is not None and cell["low"] <= 0 <= cell["high"]:
            axes.plot([j - 0.2, j + 0.2], [i + 0.34] * 2, color=colour, lw=1)
    names = [domain_label(domain) for domain in domains]
    axes.set_xticks(range(len(domains)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(domains)), names)
    axes.set_ylabel("unlearned", color=MUTED)
    axes.spines[:].set_visible(False)
    axes.set_title("Mean over worlds")
    axes.figure.colorbar(image, ax=axes, label=SHOWN[quantity])
