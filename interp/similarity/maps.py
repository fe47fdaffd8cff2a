"""A heatmap that carries its own doubts: value, interval, nulls, reliability, p, n."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import InputError
from interp.statistics import percentile_interval, permutation_p_values, standardised

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Cells = Float[np.ndarray, "layer label label"]
SIGNIFICANT = 0.05


def from_pairs(
    of_pairs: Float[np.ndarray, "layer pair"],
    pairs: Sequence[tuple[int, int]],
    *,
    diagonal: Float[np.ndarray, "layer label"] | float = np.nan,
    symmetric: bool = True,
) -> Cells:
    """Cells from one number per layer and pair of labels.

    Args:
        of_pairs: the numbers.
        pairs: numbers of labels, row and column.
        diagonal: of each label with itself.
        symmetric: fill the other triangle alike.
    """
    k = 1 + max(max(pair) for pair in pairs)
    cells = np.full((len(of_pairs), k, k), np.nan)
    rows, columns = np.array(pairs).T
    cells[:, rows, columns] = of_pairs
    if symmetric:
        cells[:, columns, rows] = of_pairs
    cells[:, np.arange(k), np.arange(k)] = diagonal
    return cells


def permutation_nulls(
    statistics: Float[np.ndarray, "draw layer pair"],
    pairs: Sequence[tuple[int, int]],
    level: float,
    *,
    scaled: Float[np.ndarray, "draw layer pair"] | None = None,
    symmetric: bool = True,
) -> dict[str, Any]:
    """``null_low`` … ``null_high`` (the central share), ``p`` and ``p_corrected`` of a map.

    P-values are one-sided, with max-T over layers and pairs, each cell in its own standard
    deviations.

    Args:
        statistics: under permutations, the observed ones first.
        pairs: numbers of labels, row and column.
        level: of the central share.
        scaled: the statistics on a scale where their null is less skew, for the p-values.
        symmetric: fill the other triangle alike.
    """
    p, p_corrected = permutation_p_values(standardised(statistics if scaled is None else scaled))
    low, high = percentile_interval(statistics, level)
    found = {"null_low": low, "null_high": high, "p": p, "p_corrected": p_corrected}
    return {name: from_pairs(part, pairs, symmetric=symmetric) for name, part in found.items()}


@dataclass(frozen=True)
class SimilarityMap:
    """How alike labels' representations are, at every layer.

    Cells are NaN where ``defined`` is false, except for the p-values: these ask whether there is
    anything at all, which can be asked of noise too. On the diagonal p-values are NaN.
    """

    measure: str
    """What the values are, as an axis would say it."""
    labels: tuple[str, ...]
    layers: tuple[int, ...]
    value: Cells
    low: Cells
    high: Cells
    null_low: Cells
    """Values from here to ``null_high`` are what unrelated labels read in these prompts."""
    null_high: Cells
    p: Cells
    p_corrected: Cells
    """Family-wise over all layers and pairs."""
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
    """What two labels with one and the same direction would read, had each only these prompts.
    Cross-fitted values have none but 1; it is for plain ones."""
    limits: tuple[float, float] = field(default=(-1.0, 1.0))
    """The range that the measure can take, for colours."""

    @property
    def outside_null(self) -> Bool[np.ndarray, "layer label label"]:
        """Where there is something to see: defined, and corrected p below .05."""
        with np.errstate(invalid="ignore"):
            return self.defined & (self.p_corrected < SIGNIFICANT)

    def at(self, layer: int) -> int:
        """The place of a layer.

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
        columns = {
            "layer": np.array(self.layers)[layer],
            "label_a": names[a],
            "label_b": names[b],
            "value": self.value.ravel(),
            "low": self.low.ravel(),
            "high": self.high.ravel(),
            "n": np.minimum(sizes[a], sizes[b]),
            "null_low": self.null_low.ravel(),
            "null_high": self.null_high.ravel(),
            "p": self.p.ravel(),
            "p_corrected": self.p_corrected.ravel(),
            "defined": self.defined.ravel(),
            "reliability_a": self.reliability[layer, a],
            "reliability_b": self.reliability[layer, b],
            "isotropic": self.isotropic.ravel(),
            "covariance_matched": self.covariance_matched.ravel(),
            "ceiling": self.ceiling.ravel(),
        }
        return pd.DataFrame(columns)

    def to_latex(self, layer: int | None = None) -> str:
        """A booktabs table of one layer (the last by default).

        Cells inside the null are grey (``xcolor``), undefined ones a dash; the last column is the
        reliability of the row's label.
        """
        depth = len(self.layers) - 1 if layer is None else self.at(layer)
        names = [_escaped(label) for label in self.labels]
        lines = [
            rf"\begin{{tabular}}{{l{'r' * len(names)}r}}",
            r"\toprule",
            f"{_escaped(self.measure)} & " + " & ".join(names) + r" & reliability \\",
            r"\midrule",
        ]
        for a, name in enumerate(names):
            cells = [self._latex_cell(depth, a, b) for b in range(len(names))]
            lines.append(f"{name} & " + " & ".join(cells) + f" & {self.reliability[depth, a]:.2f}")
            lines[-1] += r" \\"
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def plot(self, layers: Sequence[int] | None = None) -> Figure:
        """Heatmaps of these layers, all by default; cells inside the null are grey.

        Raises:
            InputError: a layer that is not in the map.
        """
        from interp.figures import heatmap_figure

        return heatmap_figure(self, layers)

    def _latex_cell(self, depth: int, a: int, b: int) -> str:
        value = self.value[depth, a, b]
        if not np.isfinite(value):
            return "--"
        number = f"${value:.2f}$"
        if a == b or self.outside_null[depth, a, b]:
            return number
        return rf"\textcolor{{gray}}{{{number}}}"


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in "_&%#$" else c for c in text)
