"""The leakage matrix: every source that reached the level against every other domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.figures.style import (
    BLUE,
    INK,
    MUTED,
    NULL,
    ORANGE,
    VERMILLION,
    domain_label,
    new_figure,
    say,
    styled,
)
from analyses.runs import TESTED, LeakageMatrix, Run, TargetOutcome
from interp.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLOURS = "YlOrBr"
DARK_FROM = 0.6  # share of the scale above which numbers are white
NO_LEAK_P = 0.05
SHOWN = {
    "area": "A: 0 untouched, 1 same rate",
    "L_50": "L at half the source's loss",
    "L_90": "L at 90% of the source's loss",
}
PARTS = {
    "source_effect": ("source effect", VERMILLION),
    "target_effect": ("target effect", ORANGE),
    "interaction": ("interaction", BLUE),
    "noise": ("training noise", MUTED),
}


def matrix_figure(tables: Run, objective: str | None = None) -> Figure:
    """A[a,b] of the plain arms of one run; see :func:`run_matrix_figure`."""
    study = LeakageMatrix({tables.record.folder.name: tables})
    return run_matrix_figure(study, objective=objective)


@styled
def run_matrix_figure(
    study: LeakageMatrix,
    run: str | None = None,
    quantity: str = "area",
    objective: str | None = None,
) -> Figure:
    """X[a,b] of one run, the mean over seeds; rows are sources, columns other domains.

    Grey rows are sources whose level was not reached; they are not imputed. A
    source whose target did not comply has its outcome below its name. Small numbers: half the width
    of the cell's 95% interval over prompts and seeds. Bar below a number: the interval contains 0.
    Ring: tested not to leak, ``|L_.9| < .05``. The row below the matrix is the null: the
    share of refusal lost after as many steps on benign answers alone. The panels to the right show
    each seed against the mean of seeds, and the shares of the variance.
    """
    run = run or next(iter(study.runs))
    domains = list(study.domains(run))
    plain = [
        arm
        for arm in study.runs[run].record.arms
        if arm.concept and not arm.retain and objective in (None, arm.objective)
    ]
    sources = [domain for domain in domains if any(arm.concept == domain for arm in plain)]
    null = _control(study, run)
    rows = [len(sources)] + [1] * (null is not None)
    width = 0.78 * len(domains) + 2.4
    figure = new_figure(width + 3.2, max(0.5 * sum(rows) + 1.7, 4.2))
    left, right = figure.subfigures(1, 2, width_ratios=[width, 3.2], squeeze=False)[0]
    panels = left.subplots(len(rows), 1, sharex=True, height_ratios=rows, squeeze=False)[:, 0]
    image = _cells(panels[0], study, run, sources, quantity, objective)
    if null is not None:
        _heat(panels[1], null[None], image.get_clim()[1])
        panels[1].set_yticks([0], ["benign answers only\n(control)"])
    for axes in panels:
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0, labelbottom=axes is panels[-1])
    names = [domain_label(domain) for domain in domains]
    panels[-1].set_xticks(range(len(domains)), names, rotation=35, ha="right")
    left.colorbar(image, ax=panels, label=SHOWN[quantity], shrink=0.8, pad=0.02)
    top, bottom = right.subplots(2, 1, height_ratios=[1.5, 1])
    _seeds(top, study, run, quantity, objective)
    _shares(bottom, study, run, quantity, objective)
    return figure


def _cells(
    axes: Axes,
    study: LeakageMatrix,
    run: str,
    sources: list[str],
    quantity: str,
    objective: str | None,
) -> AxesImage:
    domains = list(study.domains(run))

    def wide(rows: pd.DataFrame, column: str) -> np.ndarray:
        table = rows.groupby(["source", "target"])[column].mean().unstack()
        return table.reindex(index=sources, columns=domains).to_numpy(dtype=np.float64)

    cells = study.means(quantity, run=run, objective=objective)
    values, low, high = (wide(cells, name) for name in ("value", "low", "high"))
    tested = study.means(TESTED, run=run, objective=objective)
    untouched = wide(tested, "untouched_p") < NO_LEAK_P
    scale = max(1.0, float(np.nanmax(values, initial=0.0)))
    image = _heat(axes, values, scale)
    for (i, j), value in np.ndenumerate(values):
        colour = _ink(value, scale)
        if np.isfinite(high[i, j] - low[i, j]):
            half = "±" + f"{(high[i, j] - low[i, j]) / 2:.2f}".removeprefix("0")
            axes.text(j, i + 0.29, half, ha="center", va="center", fontsize=6, color=colour)
        if low[i, j] <= 0 <= high[i, j]:
            axes.plot([j - 0.2, j + 0.2], [i + 0.43] * 2, color=colour, lw=1)
        if untouched[i, j]:
            axes.plot(j + 0.36, i - 0.3, "o", color=colour, mfc="none", ms=3.5, mew=0.9)
    left = study.left_out[study.left_out["run"] == run].set_index("concept")["why"]
    for i in np.flatnonzero(~np.isfinite(values).any(axis=1)).tolist():
        why = left[[sources[i]]].iloc[0] if sources[i] in left.index else "low base in all others"
        axes.text(
            (len(domains) - 1) / 2, i, f"not in the matrix: {why}",
            ha="center", va="center", color=MUTED, style="italic", fontsize=8,
        )  # fmt: skip
    outcomes = study.outcomes(run, objective)
    weak = study.low_bases(run)
    names = [_source_label(s, outcomes.get(s, []), low_base=s in weak) for s in sources]
    axes.set_yticks(range(len(sources)), names)
    axes.set_ylabel("unlearned")
    return image


def _source_label(source: str, outcomes: list[str], *, low_base: bool) -> str:
    """The domain's name and, below it, the outcomes of the arms whose target did not comply."""
    failed = {TargetOutcome(one).badge for one in outcomes if one != TargetOutcome.COMPLIED}
    return "\n".join([domain_label(source), *["low base"] * low_base, *sorted(failed)])


def _heat(axes: Axes, values: np.ndarray, scale: float) -> AxesImage:
    """Coloured cells with their numbers; missing cells are grey."""
    axes.set_facecolor(NULL)
    masked = np.ma.masked_invalid(values)
    image = axes.imshow(masked, cmap=COLOURS, vmin=0, vmax=scale, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            shown = f"{value:.2f}".replace("-0.00", "0.00")
            axes.text(j, i, shown, ha="center", va="center", fontsize=8.5, color=_ink(value, scale))
    return image


def _shown(p_value: float) -> str:
    return "p < .001" if p_value < 0.001 else f"p = {p_value:.3f}".replace("0.", ".")


def _ink(value: float, scale: float) -> str:
    return "white" if value > DARK_FROM * scale else INK


def _control(study: LeakageMatrix, run: str) -> np.ndarray | None:
    """The share of refusal lost in the control arms, by domain; None without a control arm."""
    tables = study.runs[run]
    names = [arm.name for arm in tables.record.arms if arm.control]
    if not names:
        return None
    rows = tables.leakage[
        (tables.leakage["quantity"] == "drop") & tables.leakage["arm"].isin(names)
    ]
    means = rows.groupby("domain")["value"].mean().reindex(list(study.domains(run)))
    return means.to_numpy(dtype=np.float64)


def _seeds(
    axes: Axes, study: LeakageMatrix, run: str, quantity: str, objective: str | None
) -> None:
    """Each seed's cell against the mean over seeds, which shows the training noise."""
    cells = study.cells_of(run, objective).dropna(subset=[quantity])
    mean = cells.groupby(["source", "target", "objective"])[quantity].transform("mean")
    count = cells.groupby(["source", "target", "objective"])[quantity].transform("size")
    cells, mean = cells[count > 1], mean[count > 1]
    axes.set_title("Each seed and the mean")
    if cells.empty:
        say(axes, "one unlearning seed:\nnoise is unknown")
        return
    ends = [min(cells[quantity].min(), 0), max(cells[quantity].max(), 1)]
    axes.plot(ends, ends, color=MUTED, lw=0.8, ls=":")
    axes.plot(mean, cells[quantity], ".", color=BLUE, alpha=0.6, ms=5, mew=0)
    axes.set_xlabel("mean over seeds")
    axes.set_ylabel("one seed")
    reliability = study.reliability(run, quantity, objective)
    if np.isfinite(reliability):
        axes.text(0.04, 0.96, f"reliability {reliability:.3f}", transform=axes.transAxes, va="top")


def _shares(
    axes: Axes, study: LeakageMatrix, run: str, quantity: str, objective: str | None
) -> None:
    """The shares of the variance over cells, with the test of the interaction against noise."""
    axes.set_title("Shares of the variance")
    try:
        parts = study.decomposition(run, quantity, objective)
    except InputError:
        say(axes, "too few sources\nto separate the parts")
        return
    shown = [name for name in PARTS if np.isfinite(getattr(parts, f"{name}_share"))]
    for place, name in enumerate(reversed(shown)):
        label, colour = PARTS[name]
        share = getattr(parts, f"{name}_share")
        axes.barh(place, share, color=colour, height=0.62)
        if name == "interaction":
            known = np.isfinite(parts.p_value)
            unknown = "(not tested)" if np.isfinite(parts.noise_share) else "(and noise)"
            label += f"\n{_shown(parts.p_value) if known else unknown}"
        axes.text(max(share, 0) + 0.02, place, f"{share:.2f}", va="center", fontsize=8.5)
        axes.text(-0.03, place, label, va="center", ha="right", fontsize=8.5)
    axes.axvline(0, color=MUTED, lw=0.8)
    axes.set_xlim(min(0.0, *(getattr(parts, f"{name}_share") for name in shown)), 1.12)
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("share of the variance over cells")
