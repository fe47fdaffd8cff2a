r"""Does a rotation explain a change of the whole space? Held-out orthogonal Procrustes.

An orthogonal map Q (Schönemann 1966) is fitted from the states before to the states after on most
prompts, in their leading principal components, and both maps predict the prompts held out:

.. math:: \text{value} = 1 - \frac{\sum\lVert y - Qx\rVert^2}{\sum\lVert y - x\rVert^2}

This is the share of the change that a rotation explains, compared with the identity. It is measured
in these components and about the means. A value of 0 or less means that no rotation is visible.
In-sample fits are not valid: an orthogonal map with as many dimensions as prompts fits noise
(in-sample R² .96, held-out R² -1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations as ordered_pairs
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.similarity.maps import SimilarityMap, States, from_pairs, permuted_null, states_by_name
from interp.statistics import Confidence, exact_mean, finite, layer_names, unit_numbers

if TYPE_CHECKING:
    from interp.activations import Activations

FEWEST_PROMPTS = 16
# Up to this number, units are left out one by one; above it, several at a time.
MOST_LEFT_OUT = 40


def orthogonal_map(
    before: Float[np.ndarray, "prompt width"], after: Float[np.ndarray, "*draw prompt width"]
) -> Float[np.ndarray, "*draw width width"]:
    """The orthogonal Q for which ``before @ Q`` is nearest to ``after``, both centred."""
    left, _, right = np.linalg.svd(before.T @ after)
    return left @ right


def held_out_errors(
    before: Float[np.ndarray, "prompt width"],
    after: Float[np.ndarray, "*draw prompt width"],
    folds: Int[np.ndarray, " prompt"],
) -> Float[np.ndarray, "error *draw prompt"]:
    """Squared errors on held-out prompts: of the rotation, of the identity, of the mean only.

    Args:
        before, after: states of the same prompts; ``after`` may come in many orders at once.
        folds: the fold in which each prompt is held out.
    """
    errors = np.empty((3, *after.shape[:-1]))
    for fold in np.unique(folds):
        held = folds == fold
        x = before - before[~held].mean(axis=0)
        y = after - after[..., ~held, :].mean(axis=-2, keepdims=True)
        rotated = x[held] @ orthogonal_map(x[~held], y[..., ~held, :])
        for row, predicted in enumerate((rotated, x[held], 0.0)):
            errors[row][..., held] = np.square(y[..., held, :] - predicted).sum(axis=-1)
    return errors


def procrustes_map(
    representations: Mapping[str, States | Activations],
    *,
    dimensions: int = 10,
    folds: int = 5,
    groups: Sequence[object] | None = None,
    layers: Sequence[int] | None = None,
    draws: int = 200,
    seed: int = 0,
    level: float = 0.95,
) -> SimilarityMap:
    """Share of the change from the row's to the column's representation that a rotation explains.

    The null shuffles the prompts of the second representation. A rotation between unmatched prompts
    gains by chance as much as it loses. Other changes (shifts, noise, growth) give 0 or less, so
    the null is valid for them. ``null_low`` … ``null_high`` hold the central share of the null.
    P-values are one-sided, with max-T over layers and pairs. Intervals are jackknife intervals over
    prompts. Random directions and ceilings do not apply and are NaN.

    Args:
        representations: states or activations by name, row i of each from the same prompt, of one
            width.
        dimensions: number of principal components kept. They come from all prompts of both
            representations, so they do not depend on which states belong together.
        folds: of the cross-validation.
        groups: prompts of one group are held out together; groups of equal size are shuffled.
        layers: names of the layers; those of the activations, or 0, 1, … by default.
        draws: number of shuffles, including the observed order.
        seed: of folds and shuffles.
        level: of bands and intervals.

    Raises:
        InputError: fewer than two representations, different shapes, or too few prompts (those of
            one group count once).
    """
    labels, k = tuple(representations), len(representations)
    found, layers = states_by_name(representations, layers)
    states = [finite(x) for x in found.values()]
    if k < 2 or len({x.shape for x in states}) > 1:
        raise InputError(
            f"representations of shapes {[x.shape for x in states]}; give two or more of the same "
            "prompts, layers and width"
        )
    n, depth, _ = states[0].shape
    units = unit_numbers(groups, n)
    separate = int(units.max(initial=-1)) + 1
    if separate < FEWEST_PROMPTS:
        raise InputError(
            f"{separate} separate prompts; a held-out rotation needs {FEWEST_PROMPTS} or more"
        )
    names = layer_names(layers, depth)
    rng = np.random.default_rng(seed)
    held_out_in = rng.permutation(np.arange(separate) % folds)[units]
    shuffles = np.stack([np.arange(n), *(shuffled_units(units, rng) for _ in range(draws - 1))])

    pairs = list(ordered_pairs(range(k), 2))
    statistics = np.empty((draws, depth, len(pairs)))
    error = np.empty((depth, len(pairs)))
    for layer in range(depth):
        for index, (i, j) in enumerate(pairs):
            x, y = _reduced(states[i][:, layer], states[j][:, layer], dimensions)
            rotated, unrotated, _ = held_out_errors(x, y[shuffles], held_out_in)
            statistics[:, layer, index] = _share(unrotated - rotated, unrotated)
            error[layer, index] = _jackknife_error(x, y, held_out_in, units)

    blocks = min(separate, MOST_LEFT_OUT)
    value, reach = statistics[0], Confidence(level, blocks).two_sided * error
    cells = from_pairs(
        pairs,
        symmetric=False,
        value=value,
        low=value - reach,
        high=np.minimum(value + reach, 1.0),
        **permuted_null(statistics, level),
    )
    missing = np.full((depth, k, k), np.nan)
    return SimilarityMap(
        measure="change explained by a rotation",
        labels=labels,
        layers=names,
        **cells,
        defined=np.broadcast_to(~np.eye(k, dtype=bool), (depth, k, k)).copy(),
        reliability=np.full((depth, k), np.nan),
        n=(separate,) * k,
        isotropic=missing,
        covariance_matched=missing,
        ceiling=missing,
        draws=draws,
    )


def shuffled_units(
    units: Int[np.ndarray, " row"], rng: np.random.Generator
) -> Int[np.ndarray, " row"]:
    """Row numbers after a shuffle among units of equal size."""
    order = np.arange(len(units))
    sizes = np.bincount(units)
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes[units] == size)
        rows = members[np.argsort(units[members], kind="stable")].reshape(-1, size)
        order[rows] = rng.permutation(rows)
    return order


def _reduced(
    before: Float[np.ndarray, "prompt d_model"],
    after: Float[np.ndarray, "prompt d_model"],
    dimensions: int,
) -> tuple[Float[np.ndarray, "prompt component"], Float[np.ndarray, "prompt component"]]:
    x, y = (states - exact_mean(states) for states in (before, after))
    axes = np.linalg.svd(np.concatenate([x, y]), full_matrices=False)[2][:dimensions].T
    return x @ axes, y @ axes


def _share(
    gained: Float[np.ndarray, "*draw prompt"], total: Float[np.ndarray, "*draw prompt"]
) -> Float[np.ndarray, "*draw"]:
    """Share of the total that is gained; 0 where the total is 0."""
    whole = total.sum(axis=-1)
    return np.where(whole > 0, gained.sum(axis=-1) / np.where(whole > 0, whole, 1.0), 0.0)


def _jackknife_error(
    before: Float[np.ndarray, "prompt width"],
    after: Float[np.ndarray, "prompt width"],
    folds: Int[np.ndarray, " prompt"],
    units: Int[np.ndarray, " prompt"],
) -> float:
    """Standard error of the share, from fits without each block of units.

    Through the rotation, a prompt matters to the errors of other prompts too: the held-out errors
    alone give a standard error that is a quarter to a half too small.
    """
    block = units % min(int(units.max()) + 1, MOST_LEFT_OUT)
    shares = []
    for left_out in np.unique(block):
        kept = block != left_out
        rotated, unrotated, _ = held_out_errors(before[kept], after[kept], folds[kept])
        shares.append(float(_share(unrotated - rotated, unrotated)))
    return float(np.sqrt((len(shares) - 1) * np.var(shares)))
