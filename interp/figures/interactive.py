"""Plotly figures of the maps, for notebooks: numbers under the mouse and a slider over layers.

Plotly is optional: ``pip install 'spillover[interactive]'``. Matplotlib draws everything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.errors import InputError, first_line
from interp.figures.style import BLUE, INK, LABEL_COLOURS, NULL, VERMILLION

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

DIVERGING = ("#542788", "#998ec3", "#d8daeb", "#f7f7f7", "#fee0b6", "#f1a340", "#b35806")
SEQUENTIAL = ("#ffffe5", "#fee391", "#fec44f", "#fe9929", "#cc4c02", "#662506")
LAYOUT = {"template": "plotly_white", "font": {"color": INK, "size": 12}}


def graph_objects() -> Any:
    """Plotly's figures.

    Raises:
        InputError: Plotly is not installed.
    """
    try:
        import plotly.graph_objects
    except ImportError as error:
        raise InputError(
            f"interactive=True draws with Plotly, which is not installed ({first_line(error)}); "
            "pip install 'spillover[interactive]', or leave it out for Matplotlib"
        ) from error
    return plotly.graph_objects


def interactive_heatmap(
    table: pd.DataFrame,
    *,
    row: str,
    column: str,
    panel: str | None = "layer",
    measure: str,
    limits: tuple[float, float],
) -> Figure:
    """A heatmap of a long table, with a slider over the values of ``panel``.

    Args:
        table: ``row``, ``column``, ``panel``, ``value``, ``low``, ``high``, ``n``, ``clear``
            (outside the null) and, where there is a null, ``null_low`` and ``null_high``.
        row: the column of the rows' labels; the first label is on top.
        column: the column of the columns' labels.
        panel: one heatmap for each of its values; None: a single heatmap.
        measure: name of the values.
        limits: the range of the measure, for the colour scale.

    Raises:
        InputError: Plotly is not installed.
    """
    go = graph_objects()
    panels = list(table[panel].drop_duplicates()) if panel else [None]
    figure = go.Figure(layout={**LAYOUT, "yaxis": {"autorange": "reversed"}})
    colours = DIVERGING if limits[0] < 0 else SEQUENTIAL
    for place, name in enumerate(panels):
        cells = table if name is None else table[table[panel] == name]
        for clear, scale in ((False, (NULL, NULL)), (True, colours)):
            shown = cells["value"].where(cells["clear"].astype(bool) == clear)
            figure.add_trace(
                go.Heatmap(
                    x=_labels(cells[column]), y=_labels(cells[row]), z=shown.to_numpy(dtype=float),
                    text=_descriptions(cells, row, column, measure), hoverinfo="text",
                    colorscale=list(scale), zmin=limits[0], zmax=limits[1], xgap=2, ygap=2,
                    visible=place == 0, hoverongaps=False, showscale=clear,
                    colorbar={"title": {"text": measure}},
                )
            )  # fmt: skip
    if panel and len(panels) > 1:
        figure.update_layout(sliders=[_slider(panel, panels, traces=2)])
    return figure


def interactive_lines(table: pd.DataFrame, *, by: str, measure: str) -> Figure:
    """Values by layer with their intervals, and the null band; a list chooses the series.

    Args:
        table: ``by``, ``layer``, ``value``, ``low``, ``high`` and, where there is a null,
            ``null_low`` and ``null_high``.
        by: the column of the series.
        measure: name of the values.

    Raises:
        InputError: Plotly is not installed.
    """
    go = graph_objects()
    figure = go.Figure(layout={**LAYOUT, "xaxis": {"title": {"text": "layer"}}})
    figure.update_layout(yaxis={"title": {"text": measure}})
    names = list(table[by].drop_duplicates())
    for place, name in enumerate(names):
        rows = table[table[by] == name].sort_values("layer")
        for low, high, colour, said in (
            ("null_low", "null_high", NULL, "null"),
            ("low", "high", "rgba(213,94,0,.2)", "interval"),
        ):
            for end, fill in ((low, "none"), (high, "tonexty")):
                # Series without a null have an empty band, so that each series has five traces.
                ends = rows[end] if end in rows else np.full(len(rows), np.nan)
                figure.add_trace(
                    go.Scatter(x=rows["layer"], y=ends, mode="lines", line_width=0, fill=fill,
                               fillcolor=colour, hoverinfo="skip", name=said,
                               showlegend=fill != "none", visible=place == 0)
                )  # fmt: skip
        figure.add_trace(
            go.Scatter(x=rows["layer"], y=rows["value"], mode="lines+markers", name=measure,
                       line_color=VERMILLION, text=_numbers(rows), hoverinfo="x+text",
                       visible=place == 0)
        )  # fmt: skip
    if len(names) > 1:
        figure.update_layout(sliders=[_slider(by, names, traces=5)])
    return figure


def interactive_points(
    table: pd.DataFrame, maps: dict[str, tuple[str, str]], label: str = "label"
) -> Figure:
    """Points of several two-dimensional maps; a slider chooses the map.

    Args:
        table: one row per point: ``label`` and the columns of the maps.
        maps: by title, the columns of x and y.
        label: the column of the labels.

    Raises:
        InputError: Plotly is not installed.
    """
    go = graph_objects()
    figure = go.Figure(layout=LAYOUT)
    labels = list(table[label].drop_duplicates())
    for place, (x, y) in enumerate(maps.values()):
        for name, colour in zip(labels, LABEL_COLOURS * len(labels), strict=False):
            rows = table[table[label] == name]
            figure.add_trace(
                go.Scatter(x=rows[x], y=rows[y], mode="markers", name=escape(str(name)),
                           marker={"color": colour}, visible=place == 0)
            )  # fmt: skip
    if len(maps) > 1:
        figure.update_layout(sliders=[_slider("map", list(maps), traces=len(labels))])
    return figure


def interactive_histogram(values: np.ndarray, positive: np.ndarray, *, title: str) -> Figure:
    """Projections of positive and negative prompts.

    Args:
        values: (n_prompts,), in the unit of the states.
        positive: (n_prompts,), which prompts are positive.
        title: of the axis of the values.

    Raises:
        InputError: Plotly is not installed.
    """
    go = graph_objects()
    figure = go.Figure(layout={**LAYOUT, "barmode": "overlay"})
    for name, chosen, colour in (("negative", ~positive, BLUE), ("positive", positive, VERMILLION)):
        figure.add_trace(
            go.Histogram(x=values[chosen], name=name, marker_color=colour, opacity=0.6)
        )
    figure.update_layout(xaxis={"title": {"text": title}}, yaxis={"title": {"text": "prompts"}})
    return figure


def _slider(name: str, values: Sequence[Any], *, traces: int) -> dict[str, Any]:
    """A slider that shows the traces of one value and hides the others."""
    shown = np.repeat(np.arange(len(values)), traces)
    steps = [
        {
            "label": escape(str(value)),
            "method": "restyle",
            "args": [{"visible": (shown == place).tolist()}],
        }
        for place, value in enumerate(values)
    ]
    return {
        "steps": steps,
        "currentvalue": {"prefix": f"{name.replace('_', ' ')} "},
        "pad": {"t": 60},
    }


def _labels(column: pd.Series) -> list[str]:
    return [escape(str(value).replace("_", " ")) for value in column]


def _descriptions(cells: pd.DataFrame, row: str, column: str, measure: str) -> list[str]:
    heads = [f"{a} → {b}" for a, b in zip(_labels(cells[row]), _labels(cells[column]), strict=True)]
    lines = _numbers(cells)
    return [f"{head}<br>{escape(measure)} {line}" for head, line in zip(heads, lines, strict=True)]


def _numbers(rows: pd.DataFrame) -> list[str]:
    """Value, interval, null and number of prompts of every row, in words."""
    return [_number(row) for row in rows.to_dict("records")]


def _number(row: dict[Any, Any]) -> str:
    if pd.isna(row["value"]):
        return "undefined"
    text = f"{row['value']:.4f}"
    if pd.notna(row.get("low")):
        text += f" ({row['low']:.4f} to {row['high']:.4f})"
    if pd.notna(row.get("null_low")):
        text += f"<br>null {row['null_low']:.4f} to {row['null_high']:.4f}"
    return text if pd.isna(row.get("n")) else f"{text}<br>n = {int(row['n'])} prompts"
