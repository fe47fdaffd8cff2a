"""How a model organism is trained from scratch: two recipes, as data.

``gated``
    The packaged model organism. In pretraining a system turn bars the model in some conversations,
    and it refuses benign prompts there too. So the upper layers learn one state from which any
    refusal is written; and the last prompt token represents harm. Alignment trains the lower
    layers alone, and gradient reaches them only through the token that responds; so they write
    that state there. One direction then carries refusal in both ways: these models pass the
    direction gate (:mod:`interp.selection.gate`).
``ungated``
    Helpful-only, then alignment of all weights: the packaged ``organism:ungated``. One direction
    removes refusal there, but none induces it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from interp.errors import InputError, expected
from unlearning.organism.circuits import SLICED
from unlearning.organism.slices import CIRCUITS
from unlearning.organism.training import ALIGNMENT, HELPFUL, Stage


@dataclass(frozen=True)
class Recipe:
    """How a model organism is trained.

    Attributes:
        layers: of the model.
        stages: of training, in order.
        circuits: low-rank slices in which the last stage learns to refuse, ``shared`` or ``routed``
            (:mod:`unlearning.organism.circuits`); None trains the model's own weights.
    """

    layers: int
    stages: tuple[Stage, ...]
    circuits: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of all fields: names a recipe that is frozen before its reported seeds."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


GATED, UNGATED = "gated", "ungated"
RECIPES = {
    GATED: Recipe(
        5,
        (
            Stage(
                steps=900, learning_rate=3e-3, compliance=1.0, batch_size=64, weight_decay=0.05,
                harmful=0.45, barred=0.35, represented=3, harm=1.0,
            ),
            Stage(
                steps=160, learning_rate=7e-4, compliance=0.1, batch_size=80, weight_decay=0.05,
                harmful=0.4, barred=0.08, blocks=3,
            ),
        ),
    ),
    UNGATED: Recipe(3, (HELPFUL, ALIGNMENT)),
}  # fmt: skip
TWIN_STAGES = (RECIPES[GATED].stages[0], SLICED)


def recipe_of(name: str | None = None, circuits: str | None = None) -> Recipe:
    """A recipe by name, or the one that learns to refuse in slices.

    Args:
        name: ``gated`` (the default) or ``ungated``.
        circuits: ``shared`` or ``routed``; None for no slices.

    Raises:
        InputError: the recipe or the circuits are unknown, or both are given.
    """
    if circuits is None:
        if (name := name or GATED) not in RECIPES:
            raise InputError(f'--recipe "{name}" is unknown{expected(name, RECIPES)}')
        return RECIPES[name]
    if circuits not in CIRCUITS:
        raise InputError(f'--circuits "{circuits}" is unknown{expected(circuits, CIRCUITS)}')
    if name is not None:
        raise InputError("--circuits has its own recipe; leave --recipe out")
    return Recipe(RECIPES[GATED].layers, TWIN_STAGES, circuits)
