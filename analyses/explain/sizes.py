"""How much ``explain`` computes: everything in a small model, a stated part in a large one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, log2

import numpy as np

# Weights of a model above which the defaults are a part of all layers, prompts and random moves.
LARGE = 20_000_000
FIRST_LAYERS = 5
MOST_READ = 16
DRAWS, FEWER_DRAWS = 100, 20
PLACE_DRAWS = 20
ALL = "all"  # layers


@dataclass(frozen=True)
class Sizes:
    """What is computed for each domain.

    Attributes:
        layers: decoder layers to examine, 0-based.
        refined: also examine layers between two of them, to find where the loss enters the states.
        read: most prompts that are read; None for all. Class means are of all prompts in any case.
        draws: random moves of each cause.
        every_cause: random moves of every cause; otherwise of the one with the largest share.
        place_draws: random edits of each place of weights and states.
        place_layers: layers of these places; ``layers`` if None.
        batch_size: prompts in one forward.
    """

    layers: tuple[int, ...]
    refined: bool = False
    read: int | None = None
    draws: int = DRAWS
    every_cause: bool = True
    place_draws: int = PLACE_DRAWS
    place_layers: tuple[int, ...] | None = None
    batch_size: int = 64

    @property
    def examined(self) -> int:
        """Number of layers that are examined at most."""
        first = (-1, *self.layers)
        widest = max(after - before for before, after in pairwise(first))
        return len(self.layers) + (ceil(log2(widest)) if self.refined and widest > 1 else 0)

    def lines(self, n_layers: int) -> list[str]:
        """The sizes in words, for a plan."""
        layers = "all layers" if len(self.layers) == n_layers else f"layers {_listed(self.layers)}"
        if self.refined:
            layers += f" of {n_layers}, then between two of them"
        read = "all" if self.read is None else f"up to {self.read}"
        whose = "each cause" if self.every_cause else "the leading cause"
        return [
            f"reads: {read} harmful prompts of a domain, {layers}",
            f"random moves: {self.draws} for {whose}; random edits: {self.place_draws} of each "
            "module and position" + ("" if self.place_draws else ", so the places have no null"),
            *self._places(),
        ]

    def _places(self) -> list[str]:
        if self.place_layers is None:
            return []
        return [f"places: modules and positions of layers {_listed(self.place_layers)}"]


def default_sizes(
    parameters: int,
    n_layers: int,
    *,
    layers: Sequence[int] | None = None,
    read: int | None = None,
    draws: int | None = None,
    place_draws: int | None = None,
    batch_size: int = 64,
) -> Sizes:
    """The sizes for a model; what is given replaces the default.

    Args:
        parameters: number of weights of the model.
        n_layers: number of its decoder layers.
        layers, read, draws, place_draws, batch_size: see :class:`Sizes`; ``read`` 0 is all.
    """
    is_large = parameters > LARGE
    some = is_large and layers is None and n_layers > FIRST_LAYERS
    if some:
        layers = sorted({int(i) for i in np.linspace(-1, n_layers - 1, FIRST_LAYERS + 1)[1:]})
    if read is None and is_large:
        read = MOST_READ
    return Sizes(
        tuple(range(n_layers)) if layers is None else tuple(layers),
        refined=some,
        read=read or None,
        draws=draws or (FEWER_DRAWS if is_large else DRAWS),
        every_cause=draws is not None or not is_large,
        place_draws=(0 if is_large else PLACE_DRAWS) if place_draws is None else place_draws,
        place_layers=tuple(layers[::2]) if some and layers else None,
        batch_size=batch_size,
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
