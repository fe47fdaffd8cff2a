"""Separate negative prompts for each of several labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from interp.errors import InputError
from interp.statistics import unit_numbers


def disjoint_controls(
    pool: int, labels: Sequence[str], *, seed: int, groups: Sequence[object] | None = None
) -> dict[str, Int[np.ndarray, " row"]]:
    """Split one pool of negative prompts into disjoint shares, one per label.

    Directions that share one control set have cosine .5 even if the labels have no effect, because
    they share the controls' noise.

    Args:
        pool: number of rows in the pool.
        labels: the labels that get a share; the result depends only on their order and the seed.
        seed: of the shuffle.
        groups: rows of one group go to the same label.

    Returns:
        Row numbers by label, ascending; shares differ by one group at most.

    Raises:
        InputError: no labels, a label named twice, or fewer groups than labels.
    """
    if not labels or len(set(labels)) < len(labels):
        raise InputError(f"labels {list(labels)}; name each label that needs controls once")
    if groups is not None and len(groups) != pool:
        raise InputError(f"{len(groups)} groups for a pool of {pool} rows; give one for each")
    units = unit_numbers(groups, pool)
    kinds = np.unique(units)
    if len(kinds) < len(labels):
        raise InputError(
            f"{len(kinds)} separate control prompts for {len(labels)} labels; give one or more each"
        )
    shuffled = np.random.default_rng(seed).permutation(kinds)
    return {
        label: np.flatnonzero(np.isin(units, shuffled[start :: len(labels)]))
        for start, label in enumerate(labels)
    }
