"""The work of ``explain`` in tokens that pass through all layers, for its plan and its progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyses.explain.sizes import Sizes
from interp.causes import COALITIONS

# A forward with a backward takes as long as so many forwards.
WITH_BACKWARD = 3.5
# Forwards of few tokens, with logits at each, take so many times as long per token as large batches
# (SmolLM2-135M on one core).
SMALL_BATCHES = 3.0
RECORDINGS = 6  # of both models, for the places
MODULES = 2  # of a layer that training changes: attention, MLP
# Places of states at a layer: components and positions before the last tokens; last tokens.
EARLY, LATE = 5, 6
LATE_TOKENS = 8


@dataclass(frozen=True)
class DomainWork:
    """The work of one domain.

    Attributes:
        rows: prompts that are read.
        own: tokens of a prompt without the beginning that all prompts share.
        tail: tokens after an edit of the last one, in all forwards of the readout.
        n_layers: decoder layers of the model.
        sizes: what is computed.
    """

    rows: int
    own: float
    tail: int
    n_layers: int
    sizes: Sizes

    @property
    def states(self) -> float:
        """Both models as they are."""
        return 2 * self.rows * (self.own + self.tail)

    @property
    def undone(self) -> float:
        """Every combination of changes at one layer, on average."""
        tails = (len(COALITIONS) - 2) * self.tail * WITH_BACKWARD
        return self._above() * (2 * (self.own + self.tail) + tails)

    def controls(self, *, routing: bool) -> float:
        """The random moves of one cause, and the same edit with other domains' states."""
        tokens = self.own + self.tail if routing else self.tail
        return self._above() * 2 * self.sizes.draws * tokens

    @property
    def places(self) -> float:
        """The patches of weights and states, in both directions."""
        whole = (MODULES + EARLY) * (self.own + self.tail)
        layers = self.sizes.place_layers or self.sizes.layers
        each = self._above(layers) * (whole + LATE * (LATE_TOKENS + self.tail))
        recorded = RECORDINGS * 2 * self.rows * (self.own + self.tail)
        return recorded + len(layers) * (2 + self.sizes.place_draws) * each

    def total(self, *, routing: bool = False) -> float:
        """All of it, if routing leads or not."""
        moves = 3 if self.sizes.every_cause else 0 if routing else 1
        found = self.states + self.sizes.examined * self.undone + self.places
        found += moves * self.controls(routing=False)
        if routing or self.sizes.every_cause:
            found += self.controls(routing=True)
        return found

    def _above(self, layers: Sequence[int] | None = None) -> float:
        """Prompts times the mean share of the layers that an edit leaves to run."""
        layers = layers or self.sizes.layers
        shares = [1 - (layer + 1) / self.n_layers for layer in layers]
        return self.rows * sum(shares) / len(shares)
