"""Which domains are retained and which are left out, several times over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.errors import InputError

Split = tuple[tuple[str, ...], tuple[str, ...]]
"""Retained domains and held-out ones."""

LEFT_OUT = 3
SPLITS = 6


def held_out_splits(
    domains: Sequence[str], *, count: int = SPLITS, left_out: int = LEFT_OUT, seed: int = 0
) -> tuple[Split, ...]:
    """``count`` different splits, in pairs in which each leaves out what the other retains.

    So every domain is held out about as often as it is retained. Of fewer than six domains half
    are left out.

    Raises:
        InputError: fewer than two domains, or fewer different splits than asked for.
    """
    names = tuple(domains)
    if len(names) < 2:
        raise InputError(
            f"containment is judged where it was not trained: at least two other domains are "
            f"needed, found {', '.join(names) or 'none'}"
        )
    size = min(left_out, len(names) // 2)
    rng = np.random.default_rng(seed)
    found: dict[frozenset[str], Split] = {}
    for _ in range(100 * count):
        order = [names[i] for i in rng.permutation(len(names))]
        for held in (order[:size], order[size : 2 * size]):
            if len(found) < count:
                kept = tuple(name for name in names if name not in held)
                out = tuple(name for name in names if name in held)
                found.setdefault(frozenset(held), (kept, out))
        if len(found) == count:
            return tuple(found.values())
    raise InputError(
        f"{len(names)} other domains have {len(found)} ways to leave {size} of them out; "
        f"{count} splits were asked for"
    )
