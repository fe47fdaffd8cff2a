"""One screen: what leaked, complied or collapsed, what containment restored, what turned."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from analyses.figures.geometry import turned_panel
from analyses.figures.leakage import leakage_panel, title_of
from analyses.figures.outcome import outcome_panel
from analyses.figures.recovery import recovery_panel
from analyses.figures.style import INK, new_figure, say, styled
from analyses.runs import Headline, RunTables, headlines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = Callable[["Axes", RunTables, Headline], None]

PANELS: dict[str, Panel] = {
    "What leaked?": leakage_panel,
    "Complied or collapsed?": outcome_panel,
    "What did containment restore?": recovery_panel,
    "Which layers turned?": turned_panel,
}
WIDTHS = dict(zip(PANELS, (1.3, 0.95, 1.05, 0.85), strict=True))
ROW, HEADER, FOOT = 2.75, 0.55, 0.5  # inches


@styled
def overview_figure(tables: RunTables) -> Figure:
    """One row per unlearned concept (or compared model), one column per question."""
    found = headlines(tables.record)
    height = ROW * max(len(found), 1) + HEADER
    figure = new_figure(15.2, height)
    if not found:
        say(figure.subplots(), "no arm has finished yet")
        return figure
    # Placed by hand: legends and base rates stand outside their panels, where an automatic
    # layout would make room for them by shrinking the data.
    figure.set_layout_engine("none")
    panels = _panels(tables, found)
    grid = figure.subplots(
        len(found), len(panels), squeeze=False, width_ratios=[WIDTHS[name] for name in panels],
        gridspec_kw={
            "left": 0.09, "right": 0.97, "wspace": 0.54, "hspace": 0.42,
            "top": 1 - HEADER / height, "bottom": FOOT / height,
        },
    )  # fmt: skip
    for place, (line, headline) in enumerate(zip(grid, found, strict=True)):
        for axes, (question, draw) in zip(line, panels.items(), strict=True):
            draw(axes, tables, headline)
            if place == 0:
                axes.annotate(
                    question, (0, 1), (0, 24), xycoords="axes fraction",
                    textcoords="offset points", weight="bold", fontsize=12,
                )  # fmt: skip
        middle = (line[0].get_position().y0 + line[0].get_position().y1) / 2
        figure.text(
            0.004, middle, title_of(headline), rotation=90, va="center", weight="bold",
            fontsize=10.5, color=INK,
        )  # fmt: skip
    return figure


def _panels(tables: RunTables, found: tuple[Headline, ...]) -> dict[str, Panel]:
    """The questions that this run can answer at all."""
    panels = dict(PANELS)
    if not any(headline.sweep for headline in found):
        del panels["What did containment restore?"]
    if tables.rotation.empty:
        del panels["Which layers turned?"]
    return panels
