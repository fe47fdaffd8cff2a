"""Negative prompts for several labels that share none."""

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

    Directions that share one control set have cosine .5 when there is nothing but noise, because
    they share the controls' noise.

    Args:
        pool: number of rows in the pool.
        labels: who gets a share; the outcome depends on their order and the seed alone.
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
            f"{len(kinds)} separate control prompts for {len(labels)} labels; each needs its own"
        )
    shuffled = np.random.default_rng(seed).permutation(kinds)
    return {
        label: np.flatnonzero(np.isin(units, shuffled[start :: len(labels)]))
        for start, label in enumerate(labels)
    }
