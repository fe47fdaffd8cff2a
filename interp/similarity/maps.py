"""A similarity heatmap with its uncertainty: value, interval, nulls, reliability, p, n."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from interp.errors import InputError
from interp.statistics import percentile_interval, permutation_p_values, standardised

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from interp.activations import Activations

States = Float[np.ndarray, "prompt layer d_model"]
Cells = Float[np.ndarray, "layer label label"]
SIGNIFICANT = 0.05


def from_pairs(
    pairs: Sequence[tuple[int, int]],
    diagonal: Shaped[np.ndarray, "layer label"] | float = np.nan,
    *,
    symmetric: bool = True,
    **of_pairs: Shaped[np.ndarray, "layer pair"],
) -> dict[str, Any]:
    """Cells, by name, from one number per layer and pair of labels.

    Args:
        pairs: row and column indices of the labels of each pair.
        diagonal: the value of each label with itself.
        symmetric: fill the other triangle with the same values.
        **of_pairs: the numbers, by name.
    """
    k = 1 + max(max(pair) for pair in pairs)
    rows, columns = np.array(pairs).T
    found = {}
    for name, values in of_pairs.items():
        cells = np.empty((len(values), k, k), values.dtype)
        cells[:, rows, columns] = values
        if symmetric:
            cells[:, columns, rows] = values
        cells[:, np.arange(k), np.arange(k)] = diagonal
        found[name] = cells
    return found


def states_by_name(
    representations: Mapping[str, States | Activations], layers: Sequence[int] | None
) -> tuple[dict[str, States], Sequence[int] | None]:
    """The states of several models on the same prompts, and the names of their layers.

    Args:
        representations: arrays, or activations of one site and one position.
        layers: names of the layers; those of the activations by default.

    Raises:
        InputError: activations of different prompts or layers, or of several sites or positions.
    """
    collected = {k: x for k, x in representations.items() if not isinstance(x, np.ndarray)}
    for what in ("ids", "layers"):
        if len({getattr(one, what) for one in collected.values()}) > 1:
            raise InputError(
                f"activations with different {what} in {', '.join(collected)}; collect the same "
                "prompts at the same layers from every model"
            )
    if layers is None and collected:
        layers = next(iter(collected.values())).layers
    return {
        k: x if isinstance(x, np.ndarray) else x.states for k, x in representations.items()
    }, layers


def permuted_null(
    statistics: Float[np.ndarray, "draw layer pair"],
    level: float,
    scale: Callable[[np.ndarray], np.ndarray] = np.asarray,
) -> dict[str, Any]:
    """The central share of the draws, and one-sided p-values of the observed one, by field name.

    Args:
        statistics: of every draw, the observed one first.
        level: share of the draws within the band.
        scale: maps the statistics to the scale on which max-T compares the cells; without it the
            most skewed cells dominate the family.
    """
    low, high = percentile_interval(statistics, level)
    p, p_corrected = permutation_p_values(standardised(scale(statistics)))
    return {"null_low": low, "null_high": high, "p": p, "p_corrected": p_corrected}


@dataclass(frozen=True)
class SimilarityMap:
    """How similar the labels' representations are, at every layer.

    Cells are NaN where ``defined`` is false, except for the p-values: they test whether an effect
    exists, and this test also applies to noise. On the diagonal p-values are NaN.
    """

    measure: str
    """Name of the values, as on an axis."""
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    value: Cells
    low: Cells
    high: Cells
    null_low: Cells
    """From here to ``null_high``: the values that unrelated labels give with these prompts."""
    null_high: Cells
    p: Cells
    p_corrected: Cells
    """Family-wise corrected over all layers and pairs."""
    defined: Bool[np.ndarray, "layer label label"]
    reliability: Float[np.ndarray, "layer label"]
    n: tuple[int, ...]
    """Prompts behind each label."""
    isotropic: Cells
    """Random directions (subspaces, states) of this width stay below it in size, at the map's
    level. Activations fill few of their dimensions, so this null is too easy."""
    covariance_matched: Cells
    """The same for random ones drawn from the prompts' own covariance within labels."""
    ceiling: Cells
    """The value of two labels with one common direction, given only these prompts.
    It is 1 for cross-fitted values and below 1 for plain ones."""
    limits: tuple[float, float] = field(default=(-1.0, 1.0))
    """The range of the measure, for the colour scale."""
    draws: int = 0
    """Number of permutations of the null, including the observed order; 0 without a null."""
    no_null: str = ""
    """Why there is no null; empty where there is one."""

    def __repr__(self) -> str:
        pairs = len(self.layers) * len(self.labels) * (len(self.labels) - 1)
        null = f"{self.outside_null.sum()} outside the null ({self.draws:,} permutations)"
        return (
            f"SimilarityMap of {self.measure}: {', '.join(self.labels)}; layers "
            f"{', '.join(map(str, self.layers))}; {pairs} ordered pairs, "
            f"{null if not self.no_null else 'no null'}"
        )

    def _repr_html_(self) -> str:
        """The summary and the values of the last layer, for notebooks."""
        import pandas as pd

        table = pd.DataFrame(self.value[-1], index=self.labels, columns=self.labels)
        shown = table.to_html(float_format="{:.2f}".format, na_rep="–")
        return f"<p>{escape(repr(self))}</p><p>layer {self.layers[-1]}:</p>{shown}"

    @property
    def outside_null(self) -> Bool[np.ndarray, "layer label label"]:
        """Cells that are defined and have a corrected p below .05."""
        with np.errstate(invalid="ignore"):
            return self.defined & (self.p_corrected < SIGNIFICANT)

    @property
    def clear(self) -> Bool[np.ndarray, "layer label label"]:
        """Cells that are not grey: those outside the null; without a null, those defined."""
        return self.defined if self.no_null else self.outside_null

    def at(self, layer: int) -> int:
        """The index of a layer.

        Raises:
            InputError: a layer that is not in the map.
        """
        if layer not in self.layers:
            raise InputError(f"layer {layer} is not in the map; there are {list(self.layers)}")
        return self.layers.index(layer)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer and ordered pair of labels."""
        import pandas as pd

        layer, a, b = (index.ravel() for index in np.indices(self.value.shape))
        names, sizes = np.array(self.labels, dtype=object), np.array(self.n)

        def cells(*columns: str) -> dict[str, np.ndarray]:
            return {name: getattr(self, name).ravel() for name in columns}

        return pd.DataFrame(
            {
                "layer": np.array(self.layers)[layer],
                "label_a": names[a],
                "label_b": names[b],
                **cells("value", "low", "high"),
                "n": np.minimum(sizes[a], sizes[b]),
                **cells("null_low", "null_high", "p", "p_corrected", "defined"),
                "reliability_a": self.reliability[layer, a],
                "reliability_b": self.reliability[layer, b],
                **cells("isotropic", "covariance_matched", "ceiling"),
                "draws": self.draws,
                "no_null": self.no_null,
            }
        )

    def to_latex(self, layer: int | None = None) -> str:
        """A booktabs table of one layer (the last by default).

        Cells inside the null are grey (``xcolor``), undefined ones a dash; the last column is the
        reliability of the row's label.
        """
        import pandas as pd

        depth = len(self.layers) - 1 if layer is None else self.at(layer)
        names, k = [_escaped(label) for label in self.labels], len(self.labels)
        rows = [
            [name, *(self._latex_cell(depth, a, b) for b in range(k)), self.reliability[depth, a]]
            for a, name in enumerate(names)
        ]
        table = pd.DataFrame(rows, columns=[_escaped(self.measure), *names, "reliability"])
        return table.to_latex(index=False, float_format="%.2f", column_format="l" + "r" * (k + 1))

    def plot(
        self,
        layers: Sequence[int] | None = None,
        *,
        layer: int | None = None,
        interactive: bool = False,
    ) -> Figure | Any:
        """Draw heatmaps; cells inside the null are hatched, and the caption describes the null.

        Args:
            layers: names of layers; all by default.
            layer: one layer alone, with a number in every cell.
            interactive: return a Plotly figure with a slider over the layers.

        Raises:
            InputError: a layer that is not in the map, or Plotly is not installed.
        """
        from interp.figures import heatmap_figure, interactive_heatmap

        chosen = layers if layer is None else [layer]
        if not interactive:
            return heatmap_figure(self, chosen)
        table = self.to_dataframe().assign(clear=self.clear.ravel())
        if chosen is not None:
            table = table[table["layer"].isin([self.layers[self.at(name)] for name in chosen])]
        # The similarity of a label with itself carries no information.
        table = table.assign(value=table["value"].where(table["label_a"] != table["label_b"]))
        return interactive_heatmap(
            table, row="label_a", column="label_b", measure=self.measure, limits=self.limits
        )

    def _latex_cell(self, depth: int, a: int, b: int) -> str:
        value = self.value[depth, a, b]
        if not np.isfinite(value):
            return "--"
        number = f"${value:.2f}$"
        if a == b or self.clear[depth, a, b]:
            return number
        return rf"\textcolor{{gray}}{{{number}}}"


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "_&%#$" else c for c in text)
