r"""Random moves as long as a patch's, in directions that the target's states do take.

In an isotropic direction most of a move goes where no activation ever lies and does next to
nothing, which would make any patch look like a finding. So the directions are drawn from a normal
distribution with the covariance of the target's own states at the cell, over prompts (the mean
over the cell's tokens): :math:`\sum_i g_i (h_i - \bar h)` with standard normal :math:`g_i` has it,
without a covariance ever being computed. One direction serves all prompts and tokens of a cell, as
a feature would, and every token is moved as far along it as the patch moved it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import batches_by_length
from interp.errors import InputError
from interp.model import Hidden
from interp.patching.alignment import Alignment, Replacement
from interp.patching.places import Place, keeping, last_logits
from interp.patching.runs import PatchRuns

Directions = Sequence[Sequence[Float[Tensor, " width"]]]


def random_directions(
    runs: PatchRuns, places: Sequence[Place], draws: int, seed: int, batch_size: int
) -> Directions:
    """Unit directions by draw and place; one forward of the target over all prompts.

    Raises:
        InputError: draws are wanted for fewer than two prompts, which have no covariance.
    """
    prompts = len(runs.target_rows)
    if not draws:
        return []
    if prompts < 2:
        raise InputError("random controls need the covariance over prompts; give two at least")
    weights = np.random.default_rng(seed).normal(size=(draws, len(places), prompts))
    sums: list[Tensor | float] = [0.0] * len(places)
    for i, place in enumerate(places):
        there = Alignment.at(runs, place.position).taken.any(dim=1).numpy()
        weights[:, i] -= weights[:, i][:, there].mean(axis=1, keepdims=True)
        weights[:, i][:, ~there] = 0.0
    for chosen in batches_by_length(runs.target_rows, batch_size):
        part = runs.subset(chosen)
        with keeping([place.taken for place in places], part.target_rows) as states:
            last_logits(part.target, part.target_rows)
        for i, place in enumerate(places):
            taken = Alignment.at(part, place.position).taken
            means = _mean_state(states[place.taken], taken)[:, place.features(states[place.taken])]
            sums[i] = sums[i] + torch.from_numpy(weights[:, i, chosen]) @ means
    return [[_unit(torch.as_tensor(total)[draw]) for total in sums] for draw in range(draws)]


def random_move(
    swap: Replacement, direction: Float[Tensor, " width"]
) -> Callable[[Hidden], Hidden]:
    """The edit that moves every token as far as ``swap`` does, along ``direction``."""

    def move(states: Hidden) -> Hidden:
        difference = (swap(states) - states)[..., swap.features]
        length = difference.float().norm(dim=-1, keepdim=True)
        moved = states.clone()
        moved[..., swap.features] += (length * direction.to(length)).to(states.dtype)
        return moved

    return move


def _mean_state(states: Hidden, taken: Tensor) -> Float[Tensor, "batch width"]:
    """Over the tokens that take; zero where none does."""
    weights = taken.double() / taken.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("bt,btd->bd", weights, states.cpu().double())


def _unit(vector: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
    return vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
