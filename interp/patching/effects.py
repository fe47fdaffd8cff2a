r"""Effects of patching one cell at a time on a readout: values, intervals, controls.

A cell is a part of the model whose states or weights a patch copies from a source into a target.
For every cell and prompt, compare the readout :math:`m^{\mathrm{patched}}` with the readouts
:math:`m^{\mathrm{target}}` and :math:`m^{\mathrm{source}}` of the unpatched runs:

.. math::
    \mathrm{effect} = \overline{m^{\mathrm{patched}} - m^{\mathrm{target}}}, \qquad
    \mathrm{fraction} =
    \frac{\mathrm{effect}}{\overline{m^{\mathrm{source}} - m^{\mathrm{target}}}}

The means are over prompts, so a prompt on which source and target agree does not inflate the ratio.
Effects of different cells do not add up, because later layers also contain the states of earlier
layers. A large effect shows that the cell is sufficient to change the readout, not that the model
uses only this cell (Makelov et al. 2023, arXiv 2311.17030). Compare it with the controls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.statistics import (
    interval_columns,
    percentile_interval,
    permutation_p_values,
    resampling_weights,
    unit_count,
    weighted_means,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """A part of the model that is patched.

    Attributes:
        layer: 0-based decoder layer; None outside the layers.
        component: name of the site or of the module.
        position: name of the span; None if positions do not apply.
        head: 0-based attention head; None for all heads.
    """

    layer: int | None
    component: str
    position: str | None = None
    head: int | None = None


@dataclass(frozen=True)
class Effects:
    """Readouts with one cell patched at a time.

    Attributes:
        cells: the patched cells.
        patched: readouts of the target with each cell from the source, in float64.
        target, source: readouts of the unpatched target and source.
        controls: readouts of the target with a random change of equal size in each cell; NaN for
            cells without controls.
        groups: group of each prompt, as the default for intervals; prompts of one group are drawn
            together.
    """

    cells: tuple[Cell, ...]
    patched: Float[np.ndarray, "cell prompt"]
    target: Float[np.ndarray, " prompt"]
    source: Float[np.ndarray, " prompt"]
    controls: Float[np.ndarray, "draw cell prompt"] | None = None
    groups: Sequence[object] | None = None

    def __repr__(self) -> str:
        draws = 0 if self.controls is None else len(self.controls)
        return (
            f"Effects of {len(self.cells)} patched cells on {len(self.target)} prompts: gap "
            f"{self.gap:.3g}, {draws} random changes per cell; see to_dataframe()"
        )

    @property
    def effect(self) -> Float[np.ndarray, " cell"]:
        """Mean change of the readout, in its unit."""
        return (self.patched - self.target).mean(axis=1)

    @property
    def gap(self) -> float:
        """Mean of source minus target: the total change of the readout."""
        return float((self.source - self.target).mean())

    @property
    def fraction(self) -> Float[np.ndarray, " cell"]:
        """Share of the gap that each cell closes: 0 is none, 1 is all, below 0 widens the gap."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.effect / self.gap

    def to_dataframe(
        self,
        *,
        least_gap: float = 1.0,
        level: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
        groups: Sequence[object] | None = None,
    ) -> pd.DataFrame:
        """One row per cell.

        Args:
            least_gap: if the gap is not larger, in the readout's unit, fractions are NaN.
            level: coverage of the intervals and of the controls' band.
            resamples: number of resamples of the prompts.
            seed: seed of the resamples.
            groups: group of each prompt; prompts of one group are drawn together. Those of these
                effects by default.

        Returns:
            Columns ``layer, component, position, head``; ``effect`` and ``fraction``, each with
            ``_low`` and ``_high`` over prompts; ``defined`` (whether fractions are defined); ``n``
            prompts. With controls also ``control_low, control_high`` (the band of their effects,
            in the effect's unit), ``p`` (two-sided, per cell) and ``p_family_wise`` (corrected for
            all cells). Band and p are NaN for cells without controls or with effects that are not
            finite.
        """
        import pandas as pd

        groups = self.groups if groups is None else groups
        clusters = len(self.target) if groups is None else groups
        weights = resampling_weights(clusters, resamples, seed)
        freedom = unit_count(clusters) - 1
        resampled = weighted_means((self.patched - self.target).T, weights)
        gaps = weighted_means(self.source - self.target, weights)
        defined = abs(self.gap) > least_gap
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = resampled / gaps[:, None]
        effects = interval_columns("effect", self.effect, resampled, freedom, level)
        fractions = interval_columns("fraction", self.fraction, ratios, freedom, level)
        # Int64 is an integer type that allows missing values.
        cells = pd.DataFrame([asdict(cell) for cell in self.cells])
        cells = cells.astype({"layer": "Int64", "head": "Int64"}).assign(**effects, **fractions)
        if not defined:
            cells[list(fractions)] = np.nan
        cells = cells.assign(defined=defined, n=len(self.target))
        return cells if self.controls is None else cells.assign(**self._against_controls(level))

    def plot(
        self,
        labels: Mapping[str, str] | None = None,
        *,
        level: float = 0.95,
        groups: Sequence[object] | None = None,
        interactive: bool = False,
    ) -> Figure | Any:
        """A heatmap of the cells; see :func:`interp.figures.patching_figure`.

        With ``interactive``, a Plotly figure with a slider over the panels.
        """
        from interp.figures import interactive_heatmap, patching_cells, patching_figure

        if not interactive:
            return patching_figure(self, labels=labels, level=level, groups=groups)
        cells, quantity, _ = patching_cells(self, labels=labels, level=level, groups=groups)
        limit = 1.0 if quantity == "fraction" else float(cells["value"].abs().max()) or 1.0
        return interactive_heatmap(
            cells, row="row", column="column", panel="panel", measure=quantity,
            limits=(-limit, limit),
        )  # fmt: skip

    def _against_controls(self, level: float) -> dict[str, Float[np.ndarray, " cell"]]:
        assert self.controls is not None
        drawn = (self.controls - self.target).mean(axis=2)
        low, high = percentile_interval(drawn, level)
        # Row 0 holds the observed effects: under the null they are one more draw.
        size = np.abs(np.concatenate([self.effect[None], drawn]))
        scale = np.sqrt(np.mean(size**2, axis=0))
        with np.errstate(invalid="ignore"):
            studentised = size / np.where(scale > 0, scale, 1.0)
        # Max-T, because cells are strongly dependent.
        p, p_family_wise = permutation_p_values(studentised)
        return {"control_low": low, "control_high": high, "p": p, "p_family_wise": p_family_wise}


@dataclass(frozen=True)
class PatchAgreement:
    """Correlations over cells between two sets of effects, and the number of cells."""

    pearson: float
    spearman: float
    n: int


def patch_agreement(approximate: Effects, exact: Effects) -> PatchAgreement:
    """Correlations over cells between the effects of an approximation and the exact ones.

    A correlation is NaN if all effects of one set are equal.

    Raises:
        InputError: the cells differ, or there are fewer than three.
    """
    if approximate.cells != exact.cells:
        raise InputError("the two have different cells; give both the same sites and positions")
    if len(exact.cells) < 3:
        raise InputError(f"{len(exact.cells)} cells are too few for a correlation; give three")
    from scipy.stats import rankdata

    pair = np.stack([approximate.effect, exact.effect])
    return PatchAgreement(
        _correlation(pair), _correlation(rankdata(pair, axis=1)), len(exact.cells)
    )


def _correlation(pair: Float[np.ndarray, "2 cell"]) -> float:
    if not np.ptp(pair, axis=1).all():
        return float("nan")
    return float(np.corrcoef(pair)[0, 1])
