r"""Did the whole space turn? Held-out orthogonal Procrustes against the identity.

An orthogonal map Q (Schönemann 1966) is fitted from the states before to the states after on most
prompts, in their leading principal components, and both maps predict the prompts held out:

.. math:: \text{value} = 1 - \frac{\sum\lVert y - Qx\rVert^2}{\sum\lVert y - x\rVert^2}

the share of the change, in these components and about the means, that a rotation explains and no
change does not. Not above 0: there is no rotation to be seen. In-sample fits are worthless here: an
orthogonal map of as many dimensions as prompts fits noise (R² .96 where the held-out one is -1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations as ordered_pairs

import numpy as np
from jaxtyping import Float, Int

from interp.crossfit import finite
from interp.errors import InputError
from interp.intervals import normal_quantile
from interp.permutation import permutation_p_values
from interp.rows import unit_numbers
from interp.similarity_map import SimilarityMap

FEWEST_PROMPTS = 16
States = Float[np.ndarray, "prompt layer d_model"]


def orthogonal_map(
    before: Float[np.ndarray, "prompt width"], after: Float[np.ndarray, "prompt width"]
) -> Float[np.ndarray, "width width"]:
    """The orthogonal Q for which ``before @ Q`` is nearest to ``after``, both centred."""
    left, _, right = np.linalg.svd(before.T @ after)
    return left @ right


def held_out_errors(
    before: Float[np.ndarray, "prompt d_model"],
    after: Float[np.ndarray, "prompt d_model"],
    *,
    dimensions: int,
    folds: Int[np.ndarray, " prompt"],
) -> Float[np.ndarray, "error prompt"]:
    """Squared errors on prompts held out: of the rotation, of the identity, of the mean alone.

    Args:
        before, after: states of the same prompts.
        dimensions: principal components, of before and after together, that are kept.
        folds: the fold in which each prompt is held out.
    """
    errors = np.empty((3, len(before)))
    for fold in np.unique(folds):
        held = folds == fold
        centre_before, centre_after = before[~held].mean(axis=0), after[~held].mean(axis=0)
        both = np.concatenate([before[~held] - centre_before, after[~held] - centre_after])
        axes = np.linalg.svd(both, full_matrices=False)[2][:dimensions].T
        x, y = (before - centre_before) @ axes, (after - centre_after) @ axes
        turned = x[held] @ orthogonal_map(x[~held], y[~held])
        for row, predicted in enumerate((turned, x[held], 0.0)):
            errors[row, held] = np.square(y[held] - predicted).sum(axis=1)
    return errors


def procrustes_map(
    representations: Mapping[str, States],
    *,
    dimensions: int = 10,
    folds: int = 5,
    groups: Sequence[object] | None = None,
    layers: Sequence[int] | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> SimilarityMap:
    """Share of the change from the row's to the column's representation that is a rotation.

    The null is the identity: no rotation beyond chance. It flips, prompt by prompt, which of the
    two maps had which error (twins together); ``null_low`` … ``null_high`` hold the central share.
    P-values are one-sided, with max-T over layers and pairs. Where there is a rotation the change
    is not symmetric in the two, but nearly so. Intervals are the jackknife's over prompts. Random
    directions and ceilings have no part in it, and are NaN.

    Args:
        representations: states by name, row i of each from the same prompt, of one width.
        dimensions: principal components kept; fewer where the prompts do not allow so many.
        folds: of the cross-validation.
        groups: prompts of one group are held out together.
        layers: names of the layers; 0, 1, … by default.
        draws: flips, the observed errors included.
        seed: of folds and flips.
        level: of bands and intervals.

    Raises:
        InputError: fewer than two representations, other shapes, or too few prompts.
    """
    labels, k = tuple(representations), len(representations)
    states = [finite(x) for x in representations.values()]
    if k < 2 or len({x.shape for x in states}) > 1:
        raise InputError(
            f"representations of shapes {[x.shape for x in states]}; give two or more of the same "
            "prompts, layers and width"
        )
    n, depth, _ = states[0].shape
    if n < FEWEST_PROMPTS:
        raise InputError(f"{n} prompts; a held-out rotation needs {FEWEST_PROMPTS} or more")
    names = tuple(range(depth)) if layers is None else tuple(layers)
    if len(names) != depth:
        raise InputError(f"{len(names)} layer names for {depth} layers")
    rng = np.random.default_rng(seed)
    units = unit_numbers(groups, n)
    held_out_in = rng.permutation(np.arange(units.max() + 1) % folds)[units]
    flips = rng.choice([-1.0, 1.0], size=(draws, units.max() + 1))
    flips[0] = 1.0

    pairs = list(ordered_pairs(range(k), 2))
    value, error, band = (np.empty((depth, len(pairs))) for _ in range(3))
    statistics = np.empty((draws, depth, len(pairs)))
    for layer in range(depth):
        for index, (i, j) in enumerate(pairs):
            turned, unturned, _ = held_out_errors(
                states[i][:, layer], states[j][:, layer], dimensions=dimensions, folds=held_out_in
            )
            # Sums within units: what is flipped, and left out, together.
            gained = np.bincount(units, weights=unturned - turned)
            total = np.bincount(units, weights=unturned)
            whole = max(float(total.sum()), np.finfo(float).tiny)
            value[layer, index] = gained.sum() / whole
            influence = gained - value[layer, index] * total
            error[layer, index] = np.sqrt(np.sum(influence**2)) / whole
            drawn = flips @ gained
            # Rounding is no change: a representation against itself has nothing to gain.
            size = max(np.sqrt(np.sum(gained**2)), 1e-12 * np.square(states[j][:, layer]).sum())
            statistics[:, layer, index] = drawn / size
            band[layer, index] = np.quantile(np.abs(drawn), level) / whole

    p, p_corrected = permutation_p_values(statistics)
    reach = normal_quantile((1 + level) / 2) * error

    def cells(of_pairs: Float[np.ndarray, "layer pair"]) -> np.ndarray:
        filled = np.full((depth, k, k), np.nan)
        for index, (i, j) in enumerate(pairs):
            filled[:, i, j] = of_pairs[:, index]
        return filled

    missing = np.full((depth, k, k), np.nan)
    return SimilarityMap(
        measure="change explained by a rotation",
        labels=labels,
        layers=names,
        value=cells(value),
        low=cells(value - reach),
        high=cells(np.minimum(value + reach, 1.0)),
        null_low=cells(-band),
        null_high=cells(band),
        p=cells(p),
        p_corrected=cells(p_corrected),
        defined=np.broadcast_to(~np.eye(k, dtype=bool), (depth, k, k)).copy(),
        reliability=np.full((depth, k), np.nan),
        n=(n,) * k,
        isotropic=missing,
        covariance_matched=missing,
        ceiling=missing,
    )
