r"""Shapley values: what each player adds, averaged over all orders in which they may join.

.. math::
    \phi_p = \sum_{S \not\ni p} \frac{|S|!\,(n - |S| - 1)!}{n!}\,(v(S \cup p) - v(S))

They add up to v(all) − v(none), and a player that never changes anything gets nothing (Shapley
1953). A coalition is a number whose bit p says whether player p is in it.
"""

from __future__ import annotations

from math import factorial

import numpy as np
from jaxtyping import Float


def shapley_matrix(players: int) -> Float[np.ndarray, "player coalition"]:
    """The values as weights: ``shapley_matrix(n) @ v`` for the 2ⁿ worths ``v`` of coalitions."""
    weights = np.zeros((players, 2**players))
    for coalition in range(2**players):
        size = coalition.bit_count()
        for player in range(players):
            if coalition >> player & 1:
                share = factorial(size - 1) * factorial(players - size) / factorial(players)
                weights[player, coalition] += share
                weights[player, coalition ^ (1 << player)] -= share
    return weights
