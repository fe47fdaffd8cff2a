"""Plotly figures of the maps: their numbers, their sliders, and the message without Plotly."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from interp.directions import held_out_projections
from interp.errors import InputError
from interp.patching import Stitching
from interp.similarity import Rotations, SimilarityMap, cosine_map, rotation, state_map
from tests.planted_directions import Planted, planted_change
from tests.test_geometry import contrast
from tests.test_patching_figures import by_position


@pytest.fixture(scope="module")
def similarity() -> SimilarityMap:
    rng = np.random.default_rng(0)
    axes = {"a<b": 0, "b": 0, "c": 1}
    contrasts = {name: contrast(rng, 3 * np.eye(32)[axis]) for name, axis in axes.items()}
    return cosine_map(contrasts, permutations=100, layers=[4, 9])


def values(trace: Any) -> np.ndarray:
    return np.array(trace.z, dtype=float)


def test_a_heatmap_has_each_cell_once_and_a_slider_over_layers(similarity: SimilarityMap) -> None:
    pytest.importorskip("plotly")
    figure = similarity.plot(interactive=True)
    assert [step.label for step in figure.layout.sliders[0].steps] == ["4", "9"]
    for place in range(2):
        grey, coloured = (values(trace) for trace in figure.data[2 * place : 2 * place + 2])
        assert not (np.isfinite(grey) & np.isfinite(coloured)).any()
        drawn = np.where(np.isfinite(grey), grey, coloured).reshape(3, 3)
        apart = ~np.eye(3, dtype=bool)
        np.testing.assert_array_equal(drawn[apart], similarity.value[place][apart])
        assert np.isnan(np.diagonal(drawn)).all()
        inside = ~similarity.outside_null[place] & apart
        np.testing.assert_array_equal(np.isfinite(grey.reshape(3, 3)), inside)
        visible = list(figure.layout.sliders[0].steps[place].args[0]["visible"])
        assert visible == [k // 2 == place for k in range(4)]
    said = figure.data[1].text[1]
    assert said.startswith("a&lt;b → b<br>") and f"{similarity.value[0, 0, 1]:.4f}" in said
    assert len(similarity.plot(layer=9, interactive=True).data) == 2


def test_every_map_has_an_interactive_figure() -> None:
    go = pytest.importorskip("plotly.graph_objects")
    rng = np.random.default_rng(0)
    planted = planted_change(Planted(30.0), snr=2.0, n=20, same_prompts=True, worlds=2, seed=0)
    base, after, below, above = (rng.normal(size=size) for size in (30, 30, (2, 30), (2, 30)))
    for drawn in (
        by_position(controls=True),
        Stitching((0, 1), base, after + 5, below, above),
        Rotations({"one": rotation(*planted)}),
        held_out_projections(contrast(rng, 3 * np.eye(32)[0])),
        state_map(rng.normal(size=(20, 8)), ["a"] * 10 + ["b"] * 10),
    ):
        assert isinstance(drawn.plot(interactive=True), go.Figure)
        assert isinstance(drawn.plot(), Figure)


def test_without_plotly_one_line_says_what_to_install(
    similarity: SimilarityMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(InputError, match=r"pip install 'spillover\[interactive\]'"):
        similarity.plot(interactive=True)
    assert isinstance(similarity.plot(layer=4), Figure)
