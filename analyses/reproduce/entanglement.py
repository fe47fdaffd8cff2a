r"""R3 of the paper at every layer, with a measure of stability and a null.

c_a is the first principal component of concept a's centred states at the last prompt token, signed
so that their mean lies on its positive side. The entry is the mean over b's prompts of
cos(c_a, h_b), with raw h_b.

    stability   mean |cos| between the components of two random halves of a's prompts
    null        the entry after permuting the prompts between the concepts: the cosine of
                unrelated sets of prompts

The band of the null is simultaneous: in 95% of maps of unrelated prompts, it contains every entry
of two different concepts. It is as wide as the largest of these entries, each in standard
deviations of its null (max-T: Westfall and Young 1993). With a band for each entry alone, 69% of
such maps have one of 42 entries outside.

The Gram matrix of the prompts suffices: a component is a combination of prompts,
c = Σ_i w_i h̃_i, so ⟨c, h_j⟩ does not need vectors of the model's width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.statistics import LEVEL

HALVES = 20
PERMUTATIONS = 100
PAPER_LAYERS = 32  # of its Mistral

States = Float[np.ndarray, "prompt d_model"]
Gram = Float[np.ndarray, "prompt prompt"]


@dataclass(frozen=True)
class Entanglement:
    """One layer.

    Attributes:
        domains: rows and columns.
        cosine: of c_a with the states of b; directed.
        low, high: simultaneous 95% band of the entries' null; NaN for one domain.
        stability: of c_a.
        explained: share of a's variance along c_a.
    """

    domains: tuple[str, ...]
    cosine: Float[np.ndarray, "source target"]
    low: Float[np.ndarray, "source target"]
    high: Float[np.ndarray, "source target"]
    stability: Float[np.ndarray, " source"]
    explained: Float[np.ndarray, " source"]

    def to_dataframe(self) -> pd.DataFrame:
        """A row per ordered pair, including the diagonal."""
        n = len(self.domains)
        return pd.DataFrame(
            {
                "source": np.repeat(self.domains, n),
                "target": np.tile(self.domains, n),
                "cosine": self.cosine.ravel(),
                "null_low": self.low.ravel(),
                "null_high": self.high.ravel(),
                "stability": np.repeat(self.stability, n),
                "explained": np.repeat(self.explained, n),
            }
        )


def entanglement(
    states: Mapping[str, States],
    *,
    halves: int = HALVES,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Entanglement:
    """R3 between the concepts at one layer.

    Args:
        states: raw states of every concept's prompts, at least four of each.
        halves: number of random splits of a concept's prompts for its stability.
        permutations: number of permutations of all prompts between the concepts.
        seed: for both.
    """
    stacked = np.concatenate([values.astype(np.float64) for values in states.values()])
    sizes = [len(values) for values in states.values()]
    groups = np.split(np.arange(len(stacked)), np.cumsum(sizes)[:-1])
    gram = stacked @ stacked.T
    rng = np.random.default_rng(seed)
    null = np.empty((permutations, len(groups), len(groups)))
    for draw in range(permutations):
        null[draw] = _cosines(gram, np.split(rng.permutation(len(gram)), np.cumsum(sizes)[:-1]))
    observed = _cosines(gram, groups)
    low, high = _band(np.concatenate([observed[None], null]))
    return Entanglement(
        tuple(states),
        observed,
        low,
        high,
        np.array([_stability(gram, group, halves, rng) for group in groups]),
        np.array([_component(gram, group)[1] for group in groups]),
    )


def layer_of(wanted: int, layers: int) -> int:
    """The paper's layer as a 0-based decoder layer; in a shallow model, the same relative depth."""
    if layers > wanted:
        return wanted - 1
    return max(0, round(wanted * layers / PAPER_LAYERS) - 1)


def _band(
    maps: Float[np.ndarray, "draw source target"],
) -> tuple[Float[np.ndarray, "source target"], Float[np.ndarray, "source target"]]:
    """The simultaneous band of the entries off the diagonal; the observed map is one of the draws.

    Under the null the observed map is like any other, so the number of draws need not be large.
    NaN for one concept, which has no entry off the diagonal.
    """
    centre, spread = maps.mean(axis=0), maps.std(axis=0)
    deviation = np.abs(maps - centre) / np.where(spread > 0, spread, 1.0)
    apart = ~np.eye(maps.shape[1], dtype=bool)
    if not apart.any():
        return np.full_like(centre, np.nan), np.full_like(centre, np.nan)
    largest = np.sort(deviation[:, apart].max(axis=1))
    reach = largest[math.ceil(LEVEL * len(maps)) - 1]
    return centre - reach * spread, centre + reach * spread


def _component(gram: Gram, group: Int[np.ndarray, " prompt"]) -> tuple[np.ndarray, float]:
    """Weights of the group's raw states in its signed unit component, and its variance share."""
    from scipy.linalg import eigh

    n = len(group)
    inside = gram[np.ix_(group, group)]
    centred = inside - inside.mean(axis=0) - inside.mean(axis=1)[:, None] + inside.mean()
    [value], vectors = eigh(centred, subset_by_index=[n - 1, n - 1])
    # The weights include the centring: c = Σ w_i (h_i − mean) = Σ (w_i − mean w) h_i.
    weights = vectors[:, 0] - vectors[:, 0].mean()
    weights /= np.sqrt(max(weights @ inside @ weights, np.finfo(float).tiny))
    sign = 1.0 if weights @ inside.mean(axis=1) >= 0 else -1.0
    return sign * weights, float(value / max(np.trace(centred), np.finfo(float).tiny))


def _cosines(gram: Gram, groups: list[np.ndarray]) -> Float[np.ndarray, "source target"]:
    lengths = np.sqrt(np.maximum(np.diag(gram), np.finfo(float).tiny))
    projected = [_component(gram, group)[0] @ gram[group] / lengths for group in groups]
    return np.array([[values[group].mean() for group in groups] for values in projected])


def _stability(
    gram: Gram, group: Int[np.ndarray, " prompt"], halves: int, rng: np.random.Generator
) -> float:
    found = []
    for _ in range(halves):
        first, second = np.array_split(rng.permutation(group), 2)
        one, other = _component(gram, first)[0], _component(gram, second)[0]
        found.append(abs(one @ gram[np.ix_(first, second)] @ other))
    return float(np.mean(found))
