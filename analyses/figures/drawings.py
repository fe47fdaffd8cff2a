"""Figures of a run: functions of `Run` that return Matplotlib figures, and their files.

The figures are not registered with pyplot, so none stays open; in a notebook `display(figure)`
shows one. The overview shows leakage, the target's outcome, recovery and rotation.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.figures.geometry import (
    cosine_figure,
    cosine_layer_figure,
    null_of_rotation,
    rotation_figure,
    rotation_panel,
)
from analyses.figures.harm import CAPTION as CAPTION_OF_HARM
from analyses.figures.harm import harm_figure
from analyses.figures.leakage import (
    forgetting_curve_figure,
    leakage_figure,
    leakage_panel,
    title_of,
)
from analyses.figures.matrix import matrix_figure
from analyses.figures.outcome import outcome_caption, outcome_figure, outcome_panel
from analyses.figures.recovery import containment_figure, recovery_panel
from analyses.figures.style import INK, figure_style, new_figure, say, styled
from analyses.runs import Headline, LeakageMatrix, Run, headlines, objective_title, rows_of
from interp.store import atomic_write, write_csv, write_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_HARM = 2  # figures of harm and refusal; harm.csv has every arm
FEWEST_SOURCES = 3  # with fewer sources, bars are easier to read than a matrix


@dataclass(frozen=True)
class Drawing:
    """A figure with its name, title, caption and numbers."""

    name: str
    title: str
    caption: str
    figure: Figure
    data: pd.DataFrame


_BARS = "Bars: 95% intervals over resampled prompts. Grey band:"
LEAKAGE = (
    "The share of its refusal that each domain has lost when the target has lost 90%. "
    f"{_BARS} |L| < .05, where a domain counts as untouched. Small ticks: other seeds. ᴿ: in the "
    "retain set of the arm shown."
)
LOSS = (
    "The share of its {} that each domain has lost from the base to the after-model. "
    f"{_BARS} less than .05, where a domain counts as untouched."
)


def run_drawings(tables: Run) -> Iterator[Drawing]:
    """Yield the figures for which this run has data."""
    yield Drawing(
        "overview",
        "Overview",
        "Each column answers one question about the arms at the top of this page.",
        overview_figure(tables),
        tables.leakage,
    )
    if len(tables.record.arms) == 0:
        return
    trained = any(arm.matched for arm in tables.record.arms)
    yield Drawing(
        "leakage",
        "Leakage at the same forgetting level" if trained else "Loss of refusal by domain",
        LEAKAGE if trained else LOSS.format(tables.what_is_lost),
        leakage_figure(tables),
        tables.leakage,
    )
    if tables.arms.loc[tables.arms["retain"].isna(), "concept"].nunique() >= FEWEST_SOURCES:
        yield from _matrices(tables)
    if not tables.curves.empty:
        yield Drawing(
            "dose_response",
            "Leakage curves",
            "Loss of refusal by forgetting level, with 95% intervals over prompts. On the diagonal "
            "a domain loses refusal at the same rate as the target; above it, earlier. Domains "
            "with a base rate under .2 are left out.",
            forgetting_curve_figure(tables),
            tables.curves,
        )
    yield Drawing(
        "outcome",
        "Outcome of the target's refusals" if trained else "Refusals and answers after the change",
        outcome_caption(tables),
        outcome_figure(tables),
        tables.behaviour,
    )
    if not tables.recovery.empty:
        yield Drawing(
            "containment",
            "Containment by weight",
            "Recovery in domains of the retain set (retraining) and in domains outside it "
            "(containment), with 95% intervals over prompts, and the share of the target's prompts "
            "that the model answers. A cross: undefined; recovery.csv gives the reason.",
            containment_figure(tables),
            tables.recovery,
        )
    yield from _harm(tables)
    yield from _geometry(tables)


def _matrices(tables: Run) -> Iterator[Drawing]:
    """A leakage matrix for every objective: a mean over objectives has no interval."""
    name = tables.record.folder.name
    objectives = LeakageMatrix({name: tables}).objectives(name) or (None,)
    area = tables.leakage[tables.leakage["quantity"] == "area"]
    plain = tables.arms[tables.arms["retain"].isna() & tables.arms["concept"].notna()]
    for objective in objectives:
        of, of_one, title = tables.arms, "", ""
        if objective is not None and plain["objective"].nunique() > 1:
            of, of_one = rows_of(of, objective=objective), f"_{objective}"
            title = f": {objective_title(objective)}"
        yield Drawing(
            f"matrix{of_one}",
            f"The leakage matrix{title}",
            "Leakage area A[a,b] of domain b while a is unlearned (plain arms, mean over seeds): "
            "0 untouched, 1 the same rate of loss as the source. Small numbers: half the width of "
            "the 95% interval over prompts and seeds. Bar: the interval contains 0; ring: tested "
            "not to leak. Bottom row (null): training on benign answers alone. A source whose "
            "target did not comply has its outcome below its name. Grey row: level not reached.",
            matrix_figure(tables, objective),
            area[area["arm"].isin(of["arm"])],
        )


def _harm(tables: Run) -> Iterator[Drawing]:
    """Harm and refusal apart, for the first plain arms."""
    if tables.harm.empty:
        return
    for headline in headlines(tables.record)[:MOST_HARM]:
        rows = tables.harm[tables.harm["arm"] == headline.plain.name]
        if not rows.empty:
            yield Drawing(
                f"harm_{headline.plain.name}",
                f"Harm and refusal apart: {title_of(headline)}",
                CAPTION_OF_HARM,
                harm_figure(rows),
                rows,
            )


def _geometry(tables: Run) -> Iterator[Drawing]:
    if not tables.rotation.empty:
        for quantity, title, what in (
            ("angle_degrees", "Rotation by layer", "Angle between each domain's direction"),
            ("gain", "Gain by layer", "Length ratio of each domain's direction"),
        ):
            rows = tables.rotation[tables.rotation["quantity"] == quantity]
            if rows.empty:
                continue
            yield Drawing(
                f"rotation_{quantity}",
                title,
                f"{what} after and before, cross-fitted over split halves, with 95% intervals. "
                f"Band (null): {null_of_rotation(tables)}. A cross: undefined, because the split "
                "halves do not agree on a direction.",
                rotation_figure(tables, quantity),
                rows,
            )
    if not tables.cosine.empty:
        layers = sorted(tables.cosine["layer"].unique())
        layer = int(layers[2 * len(layers) // 3])
        yield Drawing(
            f"cosine_layer_{layer}",
            f"Cosines between domains before, layer {layer}",
            "Cross-fitted cosines between the domains' directions in the base model, at two thirds "
            "of the depth (a fixed choice). Grey: inside the null (permuted labels, corrected over "
            "all cells and layers where the run has the correction).",
            cosine_layer_figure(tables, layer),
            tables.cosine[tables.cosine["layer"] == layer],
        )
        yield Drawing(
            "cosine",
            "Cosines between domains before, all layers",
            "Cross-fitted cosines between the domains' directions in the base model, at every "
            "layer. Grey: inside the null of permuted labels.",
            cosine_figure(tables),
            tables.cosine,
        )


def write_run_figures(tables: Run, *, processes: int = 1) -> tuple[Drawing, ...]:
    """Draw the run's figures into `figures/`, each as SVG and PNG with its CSV; return them."""
    return save_drawings(run_drawings(tables), tables.record.folder / "figures", processes)


def save_drawings(
    drawings: Iterable[Drawing], folder: Path, processes: int = 1
) -> tuple[Drawing, ...]:
    """Save each figure as SVG and PNG, and its numbers as CSV; return the drawings.

    Args:
        drawings: may be drawn while others are saved.
        folder: of the files; created if missing.
        processes: that save figures; with 1, this process saves them.
    """
    if processes == 1:
        drawn = []
        for drawing in drawings:
            _save(drawing, folder)
            drawn.append(drawing)
        return tuple(drawn)
    # spawn, because torch's threads do not survive a fork.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        jobs = [(drawing, pool.submit(_save, drawing, folder)) for drawing in drawings]
        for _, job in jobs:
            job.result()
    return tuple(drawing for drawing, _ in jobs)


def _save(drawing: Drawing, folder: Path) -> None:
    with figure_style():
        with atomic_write(folder / f"{drawing.name}.svg") as path:
            drawing.figure.savefig(path, format="svg", metadata={"Date": None})
        drawing.figure.set_layout_engine(None)  # the first save did the slow layout
        with atomic_write(folder / f"{drawing.name}.png") as path:
            drawing.figure.savefig(path, format="png", dpi=160)
    write_csv(folder / f"{drawing.name}.csv", drawing.data)


def write_results(
    folder: Path,
    *,
    tables: Mapping[str, pd.DataFrame] | None = None,
    facts: Mapping[str, Any] | None = None,
    drawings: Iterable[Drawing] = (),
    figures: str = "figures",
) -> None:
    """Write the results of an analysis into its folder, each file atomically.

    Args:
        folder: of the results; created if missing.
        tables: written as ``NAME.csv``.
        facts: written as ``NAME.json``, after the tables and the figures, so that their presence
            means that the rest is complete.
        drawings: saved by :func:`save_drawings`.
        figures: folder of the drawings inside ``folder``; empty for ``folder`` itself.
    """
    for name, table in (tables or {}).items():
        write_csv(folder / f"{name}.csv", table)
    save_drawings(drawings, folder / figures)
    for name, found in (facts or {}).items():
        write_json(folder / f"{name}.json", found)


Panel = Callable[["Axes", Run, Headline], None]

PANELS: dict[str, Panel] = {
    "What leaked?": leakage_panel,
    "Complied or degenerate?": outcome_panel,
    "What did containment recover?": recovery_panel,
    "Which layers rotated?": rotation_panel,
}
WIDTHS = dict(zip(PANELS, (1.3, 0.95, 1.05, 0.85), strict=True))
ROW, HEADER, FOOT = 2.75, 0.55, 0.5  # inches


@styled
def overview_figure(tables: Run) -> Figure:
    """One row per unlearned concept (or compared model), one column per question."""
    found = headlines(tables.record)
    height = ROW * max(len(found), 1) + HEADER
    figure = new_figure(15.2, height)
    if not found:
        say(figure.subplots(), "no arm has finished yet")
        return figure
    # Fixed positions: legends and base rates lie outside their panels, and an automatic layout
    # would shrink the data to make room for them.
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


def _panels(tables: Run, found: tuple[Headline, ...]) -> dict[str, Panel]:
    """The panels for which this run has data."""
    panels = dict(PANELS)
    if not any(headline.sweep for headline in found):
        del panels["What did containment recover?"]
    if tables.rotation.empty:
        del panels["Which layers rotated?"]
    return panels
