"""The rule of the direction gate, from readouts alone: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.statistics import unit

KL_BELOW = 0.15
LEVEL = 0.05


def null_p_value(observed: float, drawn: Float[np.ndarray, " draw"], *, lower: bool) -> float:
    """Share of draws that are at least as extreme as the observed value, which counts as one.

    NaN counts as extreme.

    Args:
        observed: the statistic of the tested direction.
        drawn: that of each null direction.
        lower: whether small values are extreme, else large ones.

    Returns:
        The p-value, at least 1 / (draws + 1); at the nominal rate if the direction is a draw too.
    """
    # Not ``<=`` or ``>=``, which are false for NaN.
    ordinary = drawn > observed if lower else drawn < observed
    return float((1 + (~ordinary).sum()) / (1 + len(drawn)))


def beyond(p: float, draws: int) -> bool:
    """Whether a p-value is at most 5%; with fewer than 19 draws, whether it beats all of them."""
    return p <= max(LEVEL, 1 / (draws + 1)) + 1e-12


def best_candidate(
    bypass: Float[np.ndarray, " candidate"],
    induce: Float[np.ndarray, " candidate"],
    kl: Float[np.ndarray, " candidate"],
    *,
    kl_below: float = KL_BELOW,
) -> int:
    """The candidate with the lowest bypass that induces and costs little.

    If none does both, the lowest bypass among those that cost little; if none does, the lowest KL.
    Candidates with values that are not finite are never chosen over finite ones.
    """
    finite = np.isfinite(bypass) & np.isfinite(induce) & np.isfinite(kl)
    cheap = finite & (kl < kl_below)
    for allowed in (cheap & (induce > 0), cheap):
        if allowed.any():
            return int(np.where(allowed, bypass, np.inf).argmin())
    return int(np.where(finite, kl, np.inf).argmin())


def reasons_against(
    bypass: float,
    induce: float,
    kl: float,
    beyond_nulls: dict[str, bool],
    *,
    kl_below: float = KL_BELOW,
) -> tuple[str, ...]:
    """Why a direction does not pass, in words; empty if it passes.

    Args:
        bypass, induce, kl: means over test prompts.
        beyond_nulls: by name of an effect and null, whether the direction exceeds the null.
        kl_below: in nats.
    """
    found = []
    if not bypass < 0:
        found.append(f"bypass {bypass:+.2f} is not below 0")
    if not induce > 0:
        found.append(f"induce {induce:+.2f} is not above 0")
    if not kl < kl_below:
        found.append(f"KL {kl:.3f} is not below {kl_below:g}")
    found += [f"{name} directions do as much" for name, clear in beyond_nulls.items() if not clear]
    return tuple(found)


def random_directions(
    d_model: int, draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw d_model"]:
    """Unit directions, uniform on the sphere."""
    return unit(rng.normal(size=(draws, d_model)))


def covariance_matched_directions(
    groups: Sequence[Float[np.ndarray, "prompt d_model"]], draws: int, rng: np.random.Generator
) -> Float[np.ndarray, "draw d_model"]:
    """Unit directions drawn from the covariance of states within groups of prompts.

    Raises:
        InputError: the states do not vary within the groups.
    """
    residual = np.concatenate([states - states.mean(axis=0) for states in groups])
    if not residual.any():
        raise InputError(
            "the states do not vary within the groups, so covariance-matched directions "
            "cannot be drawn; choose a token that has read the prompt"
        )
    return unit(rng.normal(size=(draws, len(residual))) @ residual)


def shared_subspace(
    directions: Float[np.ndarray, "direction d_model"], rank: int
) -> Float[np.ndarray, "rank d_model"]:
    """The first right singular vectors of unit directions: their best shared subspace."""
    return np.linalg.svd(unit(directions), full_matrices=False)[2][:rank]
