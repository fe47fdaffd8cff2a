"""The same domains unlearned with several losses: does it matter which?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from analyses.figures import DOMAIN_COLOURS, curves_legend, curves_panel, domain_label
from analyses.figures.style import new_figure, styled
from analyses.runs import RunTables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCES = ("cybersecurity", "safety")


@styled
def objectives_figure(runs: Mapping[str, RunTables], sources: tuple[str, ...] = SOURCES) -> Figure:
    """Dose–response curves, a row for each source and a column for each objective."""
    figure = new_figure(2.9 * len(runs) + 1.4, 2.9 * len(sources))
    grid = figure.subplots(len(sources), len(runs), squeeze=False, sharex=True, sharey=True)
    colours: dict[str, str] = {}
    for column, run in enumerate(runs.values()):
        colours |= dict(zip(run.record.domains, DOMAIN_COLOURS, strict=False))
        for axes, source in zip(grid[:, column], sources, strict=True):
            arm = next(arm for arm in run.record.arms if arm.concept == source)
            curves_panel(axes, run.curves[run.curves["arm"] == arm.name], source, colours)
            outcome = run.verdicts[arm.name].outcome
            axes.set_title(f"{arm.label}\n{domain_label(source)}: {outcome}")
            axes.set_xlabel("dose" if source == sources[-1] else "")
            axes.set_ylabel("refusal lost (test)" if column == 0 else "")
    curves_legend(figure, colours)
    return figure
