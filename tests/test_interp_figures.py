"""Figures of the geometry: what is grey, what is written, what is never imported."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from interp.directions import held_out_projections
from interp.errors import InputError
from interp.figures import (
    MOST_MULTIPLES,
    draw_cells,
    projection_figure,
    rotation_by_layer_figure,
    similarity_by_layer_figure,
)
from interp.figures.style import NULL
from interp.numbers import evenly_spread
from interp.similarity import SimilarityMap, cosine_map, rotation, state_map
from interp.similarity.rotations import QUANTITIES
from interp.statistics import Contrast
from tests.planted_directions import Planted, planted_change
from tests.test_geometry import contrast


@pytest.fixture(scope="module")
def similarity() -> SimilarityMap:
    """Two labels with one direction, a third with another, a fourth with none."""
    rng = np.random.default_rng(0)
    axes = {"a_b": 0, "b": 0, "c": 1}
    contrasts = {name: contrast(rng, 3 * np.eye(32)[axis]) for name, axis in axes.items()}
    return cosine_map({**contrasts, "noise": contrast(rng)}, permutations=100, layers=[4, 9])


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_cells_inside_the_null_are_grey_and_the_diagonal_is_blank(
    similarity: SimilarityMap,
) -> None:
    figure = similarity.plot([9])
    axes = figure.axes[0]
    grey, coloured = axes.images
    shown = ~np.ma.getmaskarray(coloured.get_array())
    diagonal = np.eye(4, dtype=bool)
    np.testing.assert_array_equal(shown, similarity.outside_null[1] & ~diagonal)
    assert shown[0, 1] and not shown[0, 2]
    np.testing.assert_array_equal(np.ma.getmaskarray(grey.get_array()), diagonal)
    assert to_rgb(grey.get_cmap()(0)[:3]) == to_rgb(NULL)
    assert len(texts(figure)) == 12 and f"{similarity.value[1, 0, 1]:.2f}" in texts(figure)
    undefined = (~np.isfinite(similarity.value[1])).sum() - (~similarity.defined[1, 3, 3])
    assert texts(figure).count("–") == undefined > 0


def contrast_ratio(one: str, other: tuple[float, ...]) -> float:
    """Of two colours, from 1 to 21 (WCAG 2.2)."""
    light = []
    for colour in (to_rgb(one), to_rgb(other)):
        parts = np.where(
            np.array(colour) <= 0.04045,
            np.array(colour) / 12.92,
            ((np.array(colour) + 0.055) / 1.055) ** 2.4,
        )
        light.append(float(parts @ (0.2126, 0.7152, 0.0722)) + 0.05)
    return max(light) / min(light)


def test_numbers_are_legible_on_what_lies_beneath(similarity: SimilarityMap) -> None:
    """On the colours of every value from one end of the scale to the other, and on grey."""
    values = np.linspace(-1, 1, 16).reshape(4, 4)
    outside = np.ones((2, 4, 4), dtype=bool)
    outside[:, 2] = False
    given = {"value": np.stack([values, values]), "null_high": np.where(outside, 0.0, 2.0)}
    scale = replace(similarity, null_low=-given["null_high"] - 1e-9, **given)
    for shown in (similarity, scale):
        axes = shown.plot([9]).axes[0]
        grey, coloured = axes.images
        used = set()
        for text in axes.texts:
            j, i = (round(place) for place in text.get_position())
            beneath = (
                coloured.cmap(coloured.norm(shown.value[1, i, j]))[:3]
                if shown.outside_null[1, i, j]
                else grey.get_cmap()(0)[:3]
            )
            assert contrast_ratio(text.get_color(), beneath) > 3.5, (i, j)
            used.add(text.get_color())
    assert len(used) > 1 and "white" in used, "dark cells need light numbers"


def test_small_multiples_show_every_layer_or_twelve_of_them(similarity: SimilarityMap) -> None:
    titles = [axes.get_title(loc="left") for axes in similarity.plot().axes]
    assert titles[:2] == ["layer 4", "layer 9"]
    assert set(texts(similarity.plot())) == {"–"}  # of the label without a direction
    with pytest.raises(InputError, match="layer 3"):
        similarity.plot([3])
    assert evenly_spread(3, MOST_MULTIPLES) == [0, 1, 2]
    picked = evenly_spread(32, MOST_MULTIPLES)
    assert (len(picked), picked[0], picked[-1]) == (12, 0, 31)


def test_figures_are_vectors_on_a_ground_of_their_own_and_not_pyplots(
    similarity: SimilarityMap,
) -> None:
    before = pyplot.get_fignums()
    figure = similarity.plot([4])
    drawn = figure._repr_svg_()
    assert drawn.lstrip().startswith("<?xml") and "<image" not in drawn.split("</defs>")[0]
    assert drawn == similarity.plot([4])._repr_svg_()
    picture = figure._repr_png_()
    assert picture.startswith(b"\x89PNG") and len(picture) < len(drawn)
    assert to_rgb(figure.get_facecolor()) == (1.0, 1.0, 1.0)
    assert pyplot.get_fignums() == before


def test_latex_table_has_a_line_per_label_and_greys_what_the_figure_greys(
    similarity: SimilarityMap,
) -> None:
    table = similarity.to_latex(9)
    rows = [line for line in table.splitlines() if line.endswith(r"\\")][1:]
    assert len(rows) == 4 and rows[0].startswith(r"a\_b & $1.00$")
    grey = (~similarity.outside_null[1] & np.isfinite(similarity.value[1])).sum()
    diagonal = np.isfinite(np.diag(similarity.value[1])).sum()
    assert table.count(r"\textcolor{gray}") == grey - diagonal
    assert rows[0].endswith(f"{similarity.reliability[1, 0]:.2f} \\\\")
    assert table.count("{") == table.count("}")
    assert similarity.to_latex() == table  # the last layer
    assert "gray" not in replace(similarity, no_null="one class").to_latex(9)


def test_similarity_by_layer_has_a_panel_per_pair(similarity: SimilarityMap) -> None:
    figure = similarity_by_layer_figure(similarity, [("a_b", "b"), ("a_b", "c")])
    visible = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in visible] == ["a b – b", "a b – c"]
    (line,) = [line for line in visible[0].lines if line.get_marker() == "o"]
    np.testing.assert_array_equal(line.get_xdata(), [4, 9])
    np.testing.assert_allclose(line.get_ydata(), similarity.value[:, 0, 1])
    assert len(similarity_by_layer_figure(similarity).axes) == 8  # six pairs, two places over
    with pytest.raises(InputError, match="no label"):
        similarity_by_layer_figure(similarity, [("a_b", "z")])
    one_layer = replace(similarity, layers=(4,), **{
        name: getattr(similarity, name)[:1]
        for name in (
            *("value", "low", "high", "null_low", "null_high", "p", "p_corrected"),
            *("defined", "reliability", "isotropic", "covariance_matched", "ceiling"),
        )
    })  # fmt: skip
    assert similarity_by_layer_figure(one_layer)._repr_svg_()


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_rotation_by_layer_marks_what_is_undefined(quantity: str) -> None:
    rotated = planted_change(Planted(30.0), snr=2.0, n=20, same_prompts=True, worlds=3, seed=0)
    silent = planted_change(Planted(0.0), snr=0.0, n=20, same_prompts=True, worlds=3, seed=0)
    rotations = {"rotated": rotation(*rotated), "silent": rotation(*silent)}
    figure = rotation_by_layer_figure(rotations, quantity)
    crosses = [sum(len(line.get_xdata()) for line in axes.lines if line.get_marker() == "x")
               for axes in figure.axes]  # fmt: skip
    assert crosses == [(~getattr(r, quantity).defined).sum() for r in rotations.values()]
    with pytest.raises(InputError, match="angle_degrees"):
        rotation_by_layer_figure(rotations, "speed")


def test_projections_are_of_prompts_that_the_direction_has_not_seen() -> None:
    """With more dimensions than prompts noise separates itself, unless it is held out."""
    rng = np.random.default_rng(0)
    noise = Contrast(*rng.normal(size=(2, 30, 20, 300)), np.repeat(np.arange(30)[:, None], 2, 1))
    found = held_out_projections(noise)
    assert found.separation.mean() == pytest.approx(0.5, abs=0.05)
    difference = noise.positive.mean(0) - noise.negative.mean(0)
    seen = np.einsum("pld,ld->pl", noise.positive - noise.negative, difference)
    assert (seen > 0).mean() > 0.95
    clear = contrast(rng, 3 * np.eye(32)[0])
    projected = held_out_projections(clear, layers=(2, 5))
    assert (projected.separation > 0.9).all()
    assert abs(projected.value.mean()) < 0.5
    figure = projection_figure({"clear": projected}, layer=5)
    assert "AUC" in texts(figure)[0] and isinstance(projected.plot(), Figure)
    assert len(projected.to_dataframe()) == 48 * 2
    with pytest.raises(InputError, match="layer 4"):
        projection_figure({"clear": projected}, layer=4)
    with pytest.raises(InputError, match="no projections"):
        projection_figure({})


def test_a_pair_is_projected_on_what_neither_of_the_two_took_part_in() -> None:
    """The two prompts of a pair are nearly one text: a fold that holds one knows the other."""
    rng = np.random.default_rng(1)
    shared = rng.normal(size=(40, 12, 300))
    sides = (shared + 0.01 * rng.normal(size=shared.shape) for _ in range(2))
    found = held_out_projections(Contrast(*sides, np.repeat(np.arange(40)[:, None], 2, 1)))
    up, down = found.value[found.positive], found.value[~found.positive]
    # Their shared part outweighs all else, so the two of a pair fall on nearly the same place.
    assert np.abs(up - down).max() < 0.1 * np.abs(up).max()
    assert found.separation == pytest.approx(0.5, abs=0.02)


def test_maps_come_with_numbers() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(60, 20))
    labels = ["a", "b", "c"] * 20
    noise = state_map(states, labels)
    assert noise.agreement["all dimensions"] <= noise.agreement["labels permuted"] + 0.05
    states[::3, 0] += 9
    states[1::3, 1] += 9
    clear = state_map(states, labels, neighbours=5)
    assert clear.agreement["all dimensions"] > 0.95 and clear.agreement["PCA"] > 0.9
    assert 0.3 < sum(clear.explained) < 1 and clear.umap is None
    assert list(clear.to_dataframe().columns) == ["label", "pca_1", "pca_2"]
    drawn = replace(clear, umap=clear.pca + 1).plot()  # what UMAP gives, without its half minute
    assert [axes.get_title(loc="left") for axes in drawn.axes] == [
        "PCA",
        "UMAP (distances have no meaning)",
    ]
    assert "labels permuted" in drawn._supxlabel.get_text()
    assert len(clear.plot().axes) == 1
    with pytest.raises(InputError, match="11 or more"):
        state_map(states[:9], labels[:9])
    with pytest.raises(InputError, match="one for each"):
        state_map(states, labels[:9])


@pytest.mark.parametrize("labels_of", ["units", "rows"])
def test_copies_are_not_neighbours_and_keep_one_label_in_the_null(labels_of: str) -> None:
    above = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        states = np.repeat(rng.normal(size=(60, 8)), 2, axis=0)
        states += 0.01 * rng.normal(size=states.shape)
        labels = np.repeat(rng.integers(2, size=60), 2)
        if labels_of == "rows":  # as the harmful and the benign prompt of a pair
            labels[1::2] = 1 - labels[::2]
        groups = np.repeat(np.arange(60), 2).tolist()
        found = state_map(states, list(map(str, labels)), groups=groups, seed=seed).agreement
        above.append(found["all dimensions"] > found["labels permuted"])
    assert np.mean(above) <= 0.15


@pytest.mark.slow
def test_umap_is_drawn_beside_pca_and_the_same_twice() -> None:
    states = np.random.default_rng(0).normal(size=(40, 10))
    states[:20] += 8
    labels = ["a"] * 20 + ["b"] * 20
    one, two = (state_map(states, labels, umap=True, neighbours=5) for _ in range(2))
    np.testing.assert_array_equal(one.umap, two.umap)
    assert one.agreement["UMAP"] > 0.9
    assert {"umap_1", "umap_2"} <= set(one.to_dataframe().columns)


def test_numbers_need_no_plotting_library() -> None:
    code = (
        "import sys, interp.similarity.cosines, interp.similarity.subspaces, "
        "interp.similarity.cka, interp.similarity.procrustes, "
        "interp.directions.projections, interp.similarity.embedding, interp.directions; "
        "print([m for m in ('matplotlib', 'umap', 'sklearn', 'pandas') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("text", [None, "{:.2f}".format])
def test_an_undefined_cell_does_not_look_like_one_inside_its_null(text: Any) -> None:
    axes = Figure().subplots()
    values = np.array([[0.9, 0.1, np.nan]])
    clear, shown = np.array([[True, False, False]]), np.ones((1, 3), dtype=bool)
    draw_cells(axes, values, clear, shown, text=text)
    assert [patch.get_xy()[0] for patch in axes.patches] == [0.5]  # the second alone is hatched
    dashes = [word.get_position() for word in axes.texts if word.get_text() == "–"]
    assert dashes == [(2, 0)]
