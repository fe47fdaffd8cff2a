"""The leakage matrix: every source against every other domain, where the source complied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analyses.figures.style import INK, MUTED, NULL, domain_label, new_figure, styled
from analyses.tables import RunTables

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@styled
def matrix_figure(tables: RunTables) -> Figure:
    """A[a,b] of the plain arms, the mean over seeds; rows are sources, columns other domains.

    Sources that collapsed or never reached the dose have grey rows that say so: they are listed,
    not imputed. A cell with a bar beneath has an interval (of its first seed) that holds 0.
    """
    domains = list(tables.record.domains)
    plain = [arm for arm in tables.record.arms if arm.concept in domains and not arm.retain]
    sources = [domain for domain in domains if any(arm.concept == domain for arm in plain)]
    areas = tables.leakage[tables.leakage["quantity"] == "area"]
    figure = new_figure(0.85 * len(domains) + 2.2, 0.5 * len(sources) + 1.5)
    axes = figure.subplots()
    axes.set_facecolor(NULL)
    cells = np.full((len(sources), len(domains)), np.nan)
    for i, source in enumerate(sources):
        counted = [arm.name for arm in plain if arm.concept == source
                   and tables.verdicts[arm.name].answers]  # fmt: skip
        rows = areas[areas["arm"].isin(counted) & (areas["domain"] != source)]
        cells[i] = rows.groupby("domain")["value"].mean().reindex(domains)
        if not np.isfinite(cells[i]).any():
            axes.text(
                (len(domains) - 1) / 2, i, "not in the matrix: not reached, or not complying",
                ha="center", va="center", color=MUTED, style="italic", fontsize=8,
            )  # fmt: skip
    image = axes.imshow(np.ma.masked_invalid(cells), cmap="YlOrBr", vmin=0, vmax=1, aspect="auto")
    first = {source: next(arm.name for arm in plain if arm.concept == source) for source in sources}
    for (i, j), value in np.ndenumerate(cells):
        if np.isfinite(value):
            colour = "white" if value > 0.6 else INK
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=colour)
            row = areas[(areas["arm"] == first[sources[i]]) & (areas["domain"] == domains[j])]
            if len(row) and row["low"].iloc[0] <= 0 <= row["high"].iloc[0]:
                axes.plot([j - 0.2, j + 0.2], [i + 0.32] * 2, color=colour, lw=1)
    names = [domain_label(domain) for domain in domains]
    axes.set_xticks(range(len(domains)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(sources)), [domain_label(source) for source in sources])
    axes.set_ylabel("unlearned")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="A: 0 untouched, 1 in step")
    return figure
