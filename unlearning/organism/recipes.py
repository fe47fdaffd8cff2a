"""How a model organism is trained from scratch: two recipes, as data.

``ungated``
    Helpful-only, then alignment of all weights: the packaged model organism. One direction removes
    refusal there, but none induces it.
``persona``
    An attempt at the direction gate (:mod:`interp.selection.gate`). In pretraining a system turn
    bars the model in some conversations, and it refuses benign prompts there too. So the upper
    layers learn one state from which any refusal is written. Then the last prompt token learns to
    represent harm. Alignment trains the lower layers alone, and gradient reaches them only through
    the token that responds; so they write that state there. The finished model is the checkpoint
    of alignment that is furthest inside the gate on validation prompts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace

from interp.errors import InputError, expected
from unlearning.organism.slices import CIRCUITS
from unlearning.organism.training import ALIGNMENT, HELPFUL, Stage
from unlearning.organism.twins import TWIN_STAGES


@dataclass(frozen=True)
class Recipe:
    """How a model organism is trained.

    Attributes:
        layers: of the model.
        stages: of training, in order.
        circuits: low-rank slices in which the last stage learns to refuse, ``shared`` or ``routed``
            (:mod:`unlearning.organism.twins`); None trains the model's own weights.
        checkpoints: steps of training after which the gate is measured on validation prompts; the
            best of these checkpoints is kept. Empty: the last weights are.
    """

    layers: int
    stages: tuple[Stage, ...]
    circuits: str | None = None
    checkpoints: tuple[int, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of all fields: names a recipe that is frozen before its reported seeds."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


UNGATED, PERSONA = "ungated", "persona"
_PERSONA = Stage(
    steps=900, learning_rate=3e-3, compliance=1.0, batch_size=64, weight_decay=0.05,
    harmful=0.45, barred=0.35, is_tagged=True,
)  # fmt: skip
RECIPES = {
    UNGATED: Recipe(3, (HELPFUL, ALIGNMENT)),
    PERSONA: Recipe(
        5,
        (
            _PERSONA,
            replace(_PERSONA, steps=140, learning_rate=1.5e-3, represented=3),
            Stage(
                steps=160, learning_rate=7e-4, compliance=0.2, batch_size=80, weight_decay=0.05,
                harmful=0.2, barred=0.08, blocks=3,
            ),
        ),
        checkpoints=tuple(range(1120, 1201, 20)),
    ),
}  # fmt: skip


def recipe_of(name: str, circuits: str | None = None) -> Recipe:
    """A recipe by name, or the one that learns in slices.

    Args:
        name: ``ungated`` or ``persona``.
        circuits: ``shared`` or ``routed``; None for no slices.

    Raises:
        InputError: the recipe or the circuits are unknown, or the recipe has no slices.
    """
    if name not in RECIPES:
        raise InputError(f'--recipe "{name}" is unknown{expected(name, RECIPES)}')
    if circuits is None:
        return RECIPES[name]
    if circuits not in CIRCUITS:
        raise InputError(f'--circuits "{circuits}" is unknown{expected(circuits, CIRCUITS)}')
    if name != UNGATED:
        raise InputError(f"--recipe {name} has no slices; leave --circuits out")
    return replace(RECIPES[UNGATED], stages=TWIN_STAGES, circuits=circuits)
