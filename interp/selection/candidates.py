"""Candidate directions with what each of them does, and the paper's rule to choose among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# Arditi et al. 2024, appendix C.
KL_AT_MOST = 0.1
INDUCE_AT_LEAST = 0.0

SCORES = ("bypass", "induce", "kl")


@dataclass(frozen=True)
class Choice:
    """The chosen direction.

    Attributes:
        layer: 0-based decoder layer, at whose input it was taken.
        position: token counted from the prompt's end, -1 the last.
        direction: the mean difference, raw length.
    """

    layer: int
    position: int
    direction: Float[np.ndarray, " d_model"]


@dataclass(frozen=True)
class Candidates:
    """Directions by layer and position, and what each does to every validation prompt.

    Attributes:
        layers, positions: where they were taken; positions are counted from the prompt's end.
        directions: mean differences, positives minus negatives, in float64.
        bypass, induce, kl: see :mod:`interp.selection`.
        positive, negative: readouts of the model as it is.
    """

    layers: tuple[int, ...]
    positions: tuple[int, ...]
    directions: Float[np.ndarray, "layer position d_model"]
    bypass: Float[np.ndarray, "layer position positive"]
    induce: Float[np.ndarray, "layer position negative"]
    kl: Float[np.ndarray, "layer position negative"]
    positive: Float[np.ndarray, " positive"]
    negative: Float[np.ndarray, " negative"]

    def allowed(
        self, *, kl_at_most: float = KL_AT_MOST, induce_at_least: float = INDUCE_AT_LEAST
    ) -> Bool[np.ndarray, "layer position"]:
        """Which candidates cost little and induce the behaviour; NaN is never allowed."""
        bypass, induce, kl = (x.mean(axis=-1) for x in (self.bypass, self.induce, self.kl))
        return np.isfinite(bypass) & (kl <= kl_at_most) & (induce >= induce_at_least)

    def best(
        self, *, kl_at_most: float = KL_AT_MOST, induce_at_least: float = INDUCE_AT_LEAST
    ) -> Choice:
        """The allowed candidate with the lowest mean bypass.

        Raises:
            InputError: none is allowed.
        """
        allowed = self.allowed(kl_at_most=kl_at_most, induce_at_least=induce_at_least)
        if not allowed.any():
            kl, induce = self.kl.mean(axis=-1), self.induce.mean(axis=-1)
            raise InputError(
                f"none of {allowed.size} directions is allowed: {(kl > kl_at_most).sum()} cost "
                f"over {kl_at_most:g} nats, {(induce < induce_at_least).sum()} do not reach "
                f"{induce_at_least:g} when added, {(~np.isfinite(kl)).sum()} are no numbers; see "
                "to_dataframe(), or give more prompts"
            )
        return self.choice(np.where(allowed, self.bypass.mean(axis=-1), np.inf).argmin())

    def choice(self, index: int | np.intp) -> Choice:
        """The candidate with this number, counted by layer, then position."""
        layer, position = np.unravel_index(index, self.kl.shape[:2])
        direction = self.directions[layer, position]
        return Choice(self.layers[layer], self.positions[position], direction)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per candidate: layer, position, norm, the three means, and whether allowed."""
        import pandas as pd

        layer, position = (index.ravel() for index in np.indices(self.kl.shape[:2]))
        means = {name: getattr(self, name).mean(axis=-1).ravel() for name in SCORES}
        return pd.DataFrame(
            {
                "layer": np.array(self.layers)[layer],
                "position": np.array(self.positions)[position],
                "norm": np.linalg.norm(self.directions, axis=-1).ravel(),
                **means,
                "allowed": self.allowed().ravel(),
            }
        )
