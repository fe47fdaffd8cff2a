"""Does leakage depend on the source, on the target, or on the pair?

    X[a,b] = μ + α_a + γ_b + δ_ab        least squares over a ≠ b, Σα = Σγ = 0

α is the source effect (how much all other domains lose when the source is unlearned). γ is the
target effect (how much a domain loses whatever the source). δ is the interaction, the part of the
pair. Missing cells are allowed. The shares of source and target effect average the two orders of
entry, because without the diagonal they are not orthogonal; with δ they add to 1.

Noise in the cells looks like δ. Several unlearning seeds allow measuring it, part by part: the
function projects each seed's deviation from the mean over seeds in the same way and subtracts the
result, so that δ's share is 0 on average when δ is 0. Noise that an arm's targets share (it looks
like a source effect) or that a seed's sources share (like a target effect) does not count for δ.

With several worlds or models, the unit is the world: cells of one world share its model and its
prompts, so 42 cells are not 42 observations. Intervals are Student's over worlds, because a
bootstrap over few worlds is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import InputError
from interp.statistics import LEVEL, Estimate

PARTS = ("source_effect", "target_effect", "interaction")
ROUNDING = 1e-20  # share of the sum of squares
# Each share of the variance, and its key in files (``matrix.json``).
SHARE_KEYS = {
    "source_effect": "potency",
    "target_effect": "susceptibility",
    "interaction": "entanglement",
    "noise": "noise",
}


@dataclass(frozen=True)
class Decomposition:
    """Effects, and the shares of the variance over cells.

    `noise_share` and `p_value` (F test of δ against its variation between seeds) are NaN with one
    seed, or if fewer than two sources have all seeds; noise then counts as interaction. If
    the seeds agree up to rounding, the noise is 0 and `p_value` is NaN.
    """

    mean: float
    source_effect: Mapping[str, float]
    target_effect: Mapping[str, float]
    interaction: pd.DataFrame
    source_effect_share: float
    target_effect_share: float
    interaction_share: float
    noise_share: float
    p_value: float


@dataclass(frozen=True)
class _Layout:
    """Design matrices that give each cell's source and target."""

    source: Float[np.ndarray, "cell source"]
    target: Float[np.ndarray, "cell target"]

    @classmethod
    def of(cls, cells: pd.Index) -> _Layout:
        sides = (cells.get_level_values(name) for name in ("source", "target"))
        return cls(*(pd.get_dummies(side, dtype=np.float64).to_numpy() for side in sides))

    @cached_property
    def full(self) -> Float[np.ndarray, "cell term"]:
        return np.hstack([np.ones((len(self.source), 1)), self.source, self.target])

    @cached_property
    def freedom(self) -> dict[str, int]:
        """Degrees of freedom of each part; 0 for δ if main effects are not identifiable."""
        sources, targets = self.source.shape[1], self.target.shape[1]
        rank = int(np.linalg.matrix_rank(self.full)) if len(self.full) else 0
        told = sources > 1 and rank == sources + targets - 1
        return {
            "source_effect": sources - 1,
            "target_effect": targets - 1,
            "interaction": len(self.full) - rank if told else 0,
        }

    def squares(self, x: Float[np.ndarray, " cell"]) -> dict[str, float]:
        """Each part's sum of squares; they add to that of the cells about their mean."""
        one = np.ones((len(x), 1))
        both = _explained(self.full, x)
        source, target = (
            _explained(np.hstack([one, side]), x) for side in (self.source, self.target)
        )
        return {
            "source_effect": (source + both - target) / 2,
            "target_effect": (target + both - source) / 2,
            "interaction": float(((x - x.mean()) ** 2).sum()) - both,
        }

    def effects(self, x: Float[np.ndarray, " cell"]) -> Float[np.ndarray, " term"]:
        """μ, α and γ: the least-squares solution under two extra exact rows, Σα = Σγ = 0."""
        sources = self.source.shape[1]
        held = np.zeros((2, self.full.shape[1]))
        held[0, 1 : 1 + sources] = held[1, 1 + sources :] = 1
        stacked, aim = np.vstack([self.full, held]), np.concatenate([x, np.zeros(2)])
        return np.linalg.lstsq(stacked, aim, rcond=None)[0]


def decompose(cells: pd.DataFrame) -> Decomposition:
    """Decompose `cells` (`source, target, value`; a column `seed` names unlearning seeds).

    Rows of one cell and seed are averaged; rows with source = target or no value are left out.
    Raises `InputError` if the cells leave no degrees of freedom for δ (fewer than three sources or
    targets, or too many missing cells).
    """
    kept = cells[(cells["source"] != cells["target"]) & cells["value"].notna()]
    wide = kept.assign(seed=kept.get("seed", 0)).pivot_table("value", ["source", "target"], "seed")
    layout = _Layout.of(wide.index)
    x = wide.mean(axis=1).to_numpy(dtype=np.float64)
    sources, targets = (list(wide.index.unique(side).sort_values()) for side in wide.index.names)
    if layout.freedom["interaction"] < 1:
        raise InputError(
            f"{len(sources)} sources, {len(targets)} targets and {len(x)} cells are too few to "
            "separate source effect, target effect and interaction; unlearn more domains"
        )
    solution = layout.effects(x)
    delta = x - layout.full @ solution
    squares = layout.squares(x)
    total = sum(squares.values())
    noise, p_value = _noise(wide, layout, squares["interaction"])
    measured = not math.isnan(noise["interaction"])

    def share(value: float) -> float:
        return value / total if total > 0 else math.nan

    shares = {part: share(squares[part] - (noise[part] if measured else 0)) for part in PARTS}
    return Decomposition(
        mean=float(solution[0]),
        source_effect=dict(zip(sources, solution[1 : 1 + len(sources)].tolist(), strict=True)),
        target_effect=dict(zip(targets, solution[1 + len(sources) :].tolist(), strict=True)),
        interaction=wide.index.to_frame(index=False).assign(value=delta),
        source_effect_share=shares["source_effect"],
        target_effect_share=shares["target_effect"],
        interaction_share=shares["interaction"],
        noise_share=share(sum(noise.values())) if measured else math.nan,
        p_value=p_value,
    )


def _noise(
    wide: pd.DataFrame, layout: _Layout, interaction: float
) -> tuple[dict[str, float], float]:
    """Each part's sum of squares due to noise between seeds, and δ's p; NaN where unknown.

    The estimate uses the cells that every seed has, scaled to all cells by degrees of freedom.
    """
    from scipy.special import fdtrc

    unknown = dict.fromkeys(PARTS, math.nan), math.nan
    seeds = wide.shape[1]
    complete = wide.dropna()
    if seeds < 2 or complete.empty:
        return unknown
    within = _Layout.of(complete.index)
    if within.freedom["interaction"] < 1:
        return unknown
    deviations = complete.sub(complete.mean(axis=1), axis=0).to_numpy(dtype=np.float64)
    found = [within.squares(deviation) for deviation in deviations.T]
    per_cell = float((1 / wide.count(axis=1)).mean())  # a cell is a mean over its seeds
    noise = {}
    for part in PARTS:
        freedom = within.freedom[part] * (seeds - 1)
        mean_square = sum(squares[part] for squares in found) / freedom
        noise[part] = mean_square * per_cell * layout.freedom[part]
    if noise["interaction"] <= ROUNDING * float((complete.to_numpy(dtype=np.float64) ** 2).sum()):
        return noise, math.nan
    ratio = interaction / noise["interaction"]
    freedoms = layout.freedom["interaction"], within.freedom["interaction"] * (seeds - 1)
    return noise, float(fdtrc(*freedoms, ratio))


def _explained(design: Float[np.ndarray, "cell term"], x: Float[np.ndarray, " cell"]) -> float:
    fitted = design @ np.linalg.lstsq(design, x, rcond=None)[0]
    return float(((fitted - x.mean()) ** 2).sum())


def over_worlds(values: Sequence[float] | np.ndarray) -> Estimate:
    """Mean and Student's 95% interval over the worlds with a value; one world has no interval."""
    from scipy.special import stdtrit

    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)]
    n = len(found)
    if n == 0:
        return Estimate.undefined("no world has a value")
    mean = float(found.mean())
    if n == 1:
        return Estimate(mean, math.nan, math.nan, 1, "one world has no spread")
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2) * found.std(ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def combined_p_value(values: Sequence[float] | np.ndarray) -> float:
    """Fisher's combination (1932) of independent p-values; NaN without any."""
    from scipy.special import chdtrc

    found = np.asarray(values, dtype=np.float64)
    found = found[np.isfinite(found)].clip(min=np.finfo(np.float64).tiny)
    return float(chdtrc(2 * len(found), -2 * np.log(found).sum())) if len(found) else math.nan


def pool_decompositions(
    parts: Mapping[str, Decomposition], matrices: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """Pool decompositions and cells over worlds.

    Args:
        parts: each world's decomposition, if it has one.
        matrices: each world's matrix, sources by targets; worlds may differ in their domains.

    Returns:
        The keys of ``matrix.json``: `mean`; `shares` by part and of `noise`; `potency` (source
        effect) and `susceptibility` (target effect) by domain; `cells` by source and target; each
        `{value, low, high, n}` with n worlds. `p_entanglement`: p-value of the interaction.
    """
    domains = list(dict.fromkeys(name for matrix in matrices.values() for name in matrix.index))

    def effects(which: str) -> dict[str, Any]:
        each = [getattr(found, which) for found in parts.values()]
        return {d: over_worlds([of.get(d, math.nan) for of in each]).to_json() for d in domains}

    stacked = np.array(
        [matrix.reindex(index=domains, columns=domains) for matrix in matrices.values()]
    )
    return {
        "mean": over_worlds([found.mean for found in parts.values()]).to_json(),
        "shares": {
            key: over_worlds([getattr(p, f"{part}_share") for p in parts.values()]).to_json()
            for part, key in SHARE_KEYS.items()
        },
        "p_entanglement": combined_p_value([found.p_value for found in parts.values()]),
        SHARE_KEYS["source_effect"]: effects("source_effect"),
        SHARE_KEYS["target_effect"]: effects("target_effect"),
        "cells": {
            a: {b: over_worlds(stacked[:, i, j]).to_json() for j, b in enumerate(domains) if a != b}
            for i, a in enumerate(domains)
        },
    }
