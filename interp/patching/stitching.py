r"""Model stitching at a layer: shares of representation and routing.

:math:`M_{ij}(\ell)` is the readout of a stitched model. Its layers up to and including :math:`\ell`
come from model i and its later layers from model j; 0 is the base and a is the after-model. The
Shapley values of a two-player game give the share of the changed states at :math:`\ell`
(representation) and the share of the changed later layers (routing):

.. math::
    \mathrm{representation} &= \tfrac12\,\frac{(M_{00} - M_{a0}) + (M_{0a} - M_{aa})}
        {M_{00} - M_{aa}}, \\
    \mathrm{routing} &= \tfrac12\,\frac{(M_{00} - M_{0a}) + (M_{a0} - M_{aa})}{M_{00} - M_{aa}}.

The two add up to one at every layer. Embeddings belong to the lower part; the final norm and the
unembedding belong to the upper part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.activations import chosen_layers
from interp.model import LanguageModel
from interp.patching.activation import patch
from interp.patching.runs import WHOLE, between_models
from interp.progress import Advance, silent
from interp.readout import Readout
from interp.statistics import interval_columns, resampling_weights, unit_count

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Stitching:
    """Readouts of the base, the after-model and the two stitched models, in float64.

    Attributes:
        layers: the last layer of the lower part, 0-based, for each stitch.
        base, after: :math:`M_{00}` and :math:`M_{aa}`.
        base_below: :math:`M_{0a}`, the lower part from the base.
        after_below: :math:`M_{a0}`, the lower part from the after-model.
        groups: group of each prompt, as the default for intervals; prompts of one group are drawn
            together.
    """

    layers: tuple[int, ...]
    base: Float[np.ndarray, " prompt"]
    after: Float[np.ndarray, " prompt"]
    base_below: Float[np.ndarray, "layer prompt"]
    after_below: Float[np.ndarray, "layer prompt"]
    groups: Sequence[object] | None = None

    @property
    def representation(self) -> Float[np.ndarray, " layer"]:
        """Share of the readout's change that comes from the states after each layer."""
        return self._share(np.ones((1, len(self.base))), self._represented)[0]

    @property
    def routing(self) -> Float[np.ndarray, " layer"]:
        """Share of the readout's change that comes from the layers after each layer."""
        return self._share(np.ones((1, len(self.base))), self._routed)[0]

    def to_dataframe(
        self,
        *,
        least_gap: float = 1.0,
        level: float = 0.95,
        resamples: int = 2000,
        seed: int = 0,
        groups: Sequence[object] | None = None,
    ) -> pd.DataFrame:
        """One row per layer: both shares with their intervals over prompts.

        Args:
            least_gap: if the mean change is not larger, in the readout's unit, shares are NaN.
            level, resamples, seed, groups: settings of the bootstrap over prompts; the groups are
                those of this stitching by default.

        Returns:
            Columns ``layer``; ``representation`` and ``routing``, each with ``_low`` and ``_high``;
            ``base_below`` and ``after_below``, the stitched models' mean readouts; ``defined``;
            ``n``.
        """
        import pandas as pd

        groups = self.groups if groups is None else groups
        clusters = len(self.base) if groups is None else groups
        weights = resampling_weights(clusters, resamples, seed)
        defined = abs(float((self.base - self.after).mean())) > least_gap
        shares = {
            part: numbers if defined else np.nan
            for name, value, terms in (
                ("representation", self.representation, self._represented),
                ("routing", self.routing, self._routed),
            )
            for part, numbers in interval_columns(
                name, value, self._share(weights, terms), unit_count(clusters) - 1, level
            ).items()
        }
        return pd.DataFrame({"layer": self.layers, **shares}).assign(
            base_below=self.base_below.mean(axis=1),
            after_below=self.after_below.mean(axis=1),
            defined=defined,
            n=len(self.base),
        )

    def plot(
        self,
        *,
        level: float = 0.95,
        groups: Sequence[object] | None = None,
        interactive: bool = False,
    ) -> Figure | Any:
        """Both shares by layer with their intervals over prompts.

        With ``interactive``, a Plotly figure with a slider over the two shares.
        """
        import pandas as pd

        from interp.figures import interactive_lines, stitching_figure

        if not interactive:
            return stitching_figure(self, level=level, groups=groups)
        table = self.to_dataframe(level=level, groups=groups)
        ends = {"": "value", "_low": "low", "_high": "high"}
        shares = [
            table.rename(columns={f"{name}{end}": to for end, to in ends.items()})[
                ["layer", *ends.values(), "n"]
            ].assign(share=name)
            for name in ("representation", "routing")
        ]
        return interactive_lines(pd.concat(shares), by="share", measure="share of the change")

    @property
    def _represented(self) -> Float[np.ndarray, "layer prompt"]:
        return (self.base - self.after_below + self.base_below - self.after) / 2

    @property
    def _routed(self) -> Float[np.ndarray, "layer prompt"]:
        return (self.base - self.base_below + self.after_below - self.after) / 2

    def _share(
        self,
        weights: Float[np.ndarray, "resample prompt"],
        terms: Float[np.ndarray, "layer prompt"],
    ) -> Float[np.ndarray, "resample layer"]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (weights @ terms.T) / (weights @ (self.base - self.after))[:, None]


def stitch(
    base: LanguageModel,
    after: LanguageModel,
    prompts: Sequence[str],
    readout: Readout,
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 32,
    progress: Advance = silent,
) -> Stitching:
    """Stitch the base and the after-model at every layer, in both orders.

    Args:
        base, after: models of the same shape with the same tokenizer.
        prompts: texts.
        readout: one number per prompt; see :mod:`interp.readout`.
        layers: last layers of the lower part, 0-based; all by default.
        batch_size: prompts in one forward.
        progress: called with the number of forwards just done.

    Raises:
        InputError: the models differ in shape or tokens, or a layer does not exist.
    """
    runs = between_models(base, after, prompts)
    chosen = chosen_layers(base, layers)
    base_below, after_below = (
        patch(
            direction,
            readout,
            layers=chosen,
            positions=[WHOLE],
            batch_size=batch_size,
            progress=progress,
        )
        for direction in (runs, runs.reversed())
    )
    return Stitching(
        chosen, base_below.source, base_below.target, base_below.patched, after_below.patched
    )
