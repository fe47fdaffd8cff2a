"""Heatmaps of patched cells: what is grey, what is written, what stands on the axes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from interp.figures import patching_figure, stitching_figure
from interp.figures.style import NULL
from interp.patching import Cell, Effects, Stitching

PROMPTS, DRAWS = 40, 40


def effects(cells: list[Cell], sizes: list[float], *, controls: bool, gap: float = 4.0) -> Effects:
    """Cells with given mean effects on 40 prompts; random moves of about .3 nats."""
    rng = np.random.default_rng(0)
    target = rng.normal(size=PROMPTS)
    source = target + gap + 0.1 * rng.normal(size=PROMPTS)
    patched = target + np.array(sizes)[:, None] * (1 + 0.1 * rng.normal(size=PROMPTS))
    moves = target + 0.3 * rng.normal(size=(DRAWS, len(cells), 1))
    return Effects(tuple(cells), patched, target, source, moves if controls else None)


def by_position(controls: bool, gap: float = 4.0) -> Effects:
    cells = [Cell(i, "residual_out", name) for i in (0, 9, 10) for name in ("object", "last[-1]")]
    return effects(cells, [0.1, 0.0, -0.2, 3.0, 0.0, 4.0], controls=controls, gap=gap)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.images]


def coloured(axes: Axes) -> list[tuple[int, int]]:
    """Cells with a colour, as (row, column)."""
    shown = ~np.ma.getmaskarray(axes.images[1].get_array())
    return [(int(i), int(j)) for i, j in np.argwhere(shown)]


def names(axes: Axes) -> tuple[list[str], list[str]]:
    return (
        [label.get_text() for label in axes.get_yticklabels()],
        [label.get_text() for label in axes.get_xticklabels()],
    )


def test_cells_inside_the_null_are_grey_and_say_their_number_all_the_same() -> None:
    found = by_position(controls=True)
    (axes,) = panels(found.plot())
    assert coloured(axes) == [(1, 1), (1, 2)]
    table = found.to_dataframe()
    assert (table["p_family_wise"] <= 0.05).sum() == 2
    assert to_rgb(axes.images[0].get_cmap()(0)[:3]) == to_rgb(NULL)
    written = [text.get_text() for text in axes.texts]
    assert len(written) == 6 and written[5] == f"{found.fraction[5]:.2f}"
    assert "0.00" in written and "−0.00" not in written


def test_without_controls_grey_is_an_interval_that_holds_zero() -> None:
    found = by_position(controls=False)
    figure = patching_figure(found)
    table = found.to_dataframe()
    clear = (table["fraction_low"] > 0) | (table["fraction_high"] < 0)
    assert len(coloured(panels(figure)[0])) == clear.sum() == 4
    assert "interval contains 0" in figure.axes[-1].get_ylabel()


def test_tokens_stand_on_the_axis_where_positions_have_a_text() -> None:
    labels = {"object": "object", "last[-1]": "\n<|assistant|>"}
    (axes,) = panels(by_position(controls=True).plot(labels))
    assert names(axes) == (["object", r"‘\n<|assistant|>’"], ["0", "9", "10"])
    assert axes.get_title(loc="left") == "residual out"


def test_a_panel_per_component_and_for_heads_one_per_position() -> None:
    components = [Cell(0, site, "a") for site in ("attention_out", "mlp_out")]
    found = panels(effects(components, [1.0, 2.0], controls=False).plot())
    assert [axes.get_title(loc="left") for axes in found] == ["attention out", "mlp out"]
    heads = [Cell(layer, "heads", "a", head) for layer in (0, 1) for head in range(4)]
    (axes,) = panels(effects(heads, [1.0] * 8, controls=False).plot())
    assert names(axes)[0] == [f"head {head}" for head in range(4)]
    assert axes.get_title(loc="left") == "a"


def test_modules_that_are_the_same_in_both_models_are_left_out() -> None:
    cells = [Cell(None, "lm_head"), Cell(0, "mlp"), Cell(0, "norm"), Cell(1, "mlp"),
             Cell(1, "norm"), Cell(None, "final_norm")]  # fmt: skip
    found = effects(cells, [1.0, 0.5, 0.0, 0.0, 0.0, 0.0], controls=False)
    (axes,) = panels(found.plot())
    assert names(axes) == (["lm head", "mlp"], ["0", "1", "outside"])
    empty = np.isnan(np.ma.filled(axes.images[0].get_array(), np.nan))
    np.testing.assert_array_equal(empty, [[True, True, False], [False, False, True]])
    nothing = replace(found, patched=np.tile(found.target, (6, 1)))
    assert len(names(panels(nothing.plot())[0])[0]) == 4


def test_where_there_is_no_gap_effects_are_shown_in_their_own_unit() -> None:
    found = by_position(controls=True, gap=0.5)
    figure = found.plot()
    assert "effect" in figure.axes[-1].get_ylabel()
    (axes,) = panels(figure)
    assert f"{found.effect[5]:.2f}" in [text.get_text() for text in axes.texts]
    assert axes.images[1].get_clim() == (-found.effect.max(), found.effect.max())


def test_many_cells_carry_no_numbers() -> None:
    cells = [Cell(i, "residual_out", str(j)) for i in range(20) for j in range(10)]
    (axes,) = panels(effects(cells, [1.0] * 200, controls=False).plot())
    assert not axes.texts


def test_shares_of_stitched_models_add_to_one_in_the_figure_too() -> None:
    rng = np.random.default_rng(0)
    base, after = rng.normal(4.0, 1.0, PROMPTS), rng.normal(0.0, 1.0, PROMPTS)
    below, above = rng.normal(2.0, 1.0, (2, 3, PROMPTS))
    figure = Stitching((0, 1, 2), base, after, below, above).plot()
    first, second = (
        line.get_ydata() for line in figure.axes[0].lines if line.get_marker() in ("o", "s")
    )
    np.testing.assert_allclose(np.add(first, second), 1.0)
    assert isinstance(stitching_figure(Stitching((0, 1, 2), base, after, below, above)), Figure)


@pytest.mark.parametrize("found", [by_position(True), by_position(False)])
def test_figures_are_the_same_vectors_every_time(found: Effects) -> None:
    drawn = found.plot()._repr_svg_()
    assert drawn.lstrip().startswith("<?xml") and drawn == found.plot()._repr_svg_()


def test_patching_needs_no_plotting_library() -> None:
    code = "import sys, interp.patching; print('matplotlib' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert found.stdout.strip() == "False"
