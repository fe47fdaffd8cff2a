"""Held-out projections of prompts on their label's direction.

A direction separates the prompts that it was fitted to even if the label has no effect; with more
dimensions than prompts it always does. So every prompt is projected on the mean difference of the
prompts in the other folds. Pairs stay together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from interp.directions.fitting import mean_difference
from interp.errors import InputError
from interp.statistics import Contrast, layer_names, unit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Projections:
    """Held-out projections of one label's prompts.

    Attributes:
        value: in units of the states; 0 is the middle between the two means, and the positives'
            mean is above 0.
        positive: which prompts are positive.
        layers: names of the layers.
    """

    value: Float[np.ndarray, "prompt layer"]
    positive: Bool[np.ndarray, " prompt"]
    layers: tuple[int, ...]

    @property
    def separation(self) -> Float[np.ndarray, " layer"]:
        """AUC per layer: share of pairs with the positive above the negative; .5 or less: noise."""
        up, down = self.value[self.positive], self.value[~self.positive]
        above = up[:, None] > down[None, :]
        return (above + 0.5 * (up[:, None] == down[None, :])).mean(axis=(0, 1))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per prompt and layer."""
        import pandas as pd

        prompt, layer = (index.ravel() for index in np.indices(self.value.shape))
        return pd.DataFrame(
            {
                "prompt": prompt,
                "positive": self.positive[prompt],
                "layer": np.array(self.layers)[layer],
                "projection": self.value.ravel(),
            }
        )

    def plot(self, layer: int | None = None, *, interactive: bool = False) -> Figure | Any:
        """Draw the distributions at one layer, the last by default; with Plotly on request."""
        from interp.figures import interactive_histogram, projection_figure

        if not interactive or layer not in (None, *self.layers):
            return projection_figure({"": self}, layer)
        place = len(self.layers) - 1 if layer is None else self.layers.index(layer)
        return interactive_histogram(
            self.value[:, place],
            self.positive,
            title=f"projection on the direction of the other folds, layer {self.layers[place]}",
        )


def held_out_projections(
    contrast: Contrast, *, layers: tuple[int, ...] | None = None, folds: int = 5, seed: int = 0
) -> Projections:
    """Project every prompt on the unit mean difference of the other folds.

    Args:
        contrast: positive and negative prompts.
        layers: names of the layers; 0, 1, … by default.
        folds: matched prompts are in the same one.
        seed: of the folds.

    Raises:
        InputError: a fold holds every prompt of a side, or the layer names do not fit.
    """
    states, positive, units = contrast.states, contrast.classes == 0, contrast.units
    names = layer_names(layers, states.shape[1])
    order = np.random.default_rng(seed).permutation(units.max() + 1)
    held_out_in = (order % folds)[units]
    value = np.empty(states.shape[:2])
    for fold in range(folds):
        held = held_out_in == fold
        up, down = states[~held & positive], states[~held & ~positive]
        if not len(up) or not len(down):
            raise InputError(
                f"{folds} folds leave a side of {contrast.n} prompts empty; use fewer folds or "
                "more prompts"
            )
        above, below = up.mean(axis=0), down.mean(axis=0)
        value[held] = np.einsum("pld,ld->pl", states[held] - (above + below) / 2,
                                unit(mean_difference(up, down)))  # fmt: skip
    return Projections(value, positive, names)
