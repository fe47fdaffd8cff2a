"""The ways of keeping an unlearning narrow that are held against one another.

Most of them train on retained examples beside the forget set and differ in which examples; the
others change how the step is taken. None looks at a held-out domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Method:
    """One way.

    Attributes:
        name: on the command line and in the names of arms.
        title: in figures.
        does: what it does, in a few words.
        retains: whether it trains on retained examples.
        chooses: whether it says which of them, so that fewer can be given.
        weighted: whether its retain term has a weight to look for.
        weight_like: the method whose weight it takes over, where it looks for none of its own.
        changes: of the training settings.
    """

    name: str
    title: str
    does: str
    retains: bool = True
    chooses: bool = False
    weighted: bool = True
    weight_like: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


_METHODS = (
    Method(
        "equal",
        "equal share",
        "cross-entropy on other domains' deflections in equal shares (the paper)",
        chooses=True,
    ),
    Method(
        "random",
        "random",
        "the same on examples drawn at random: what every choice is held to",
        chooses=True,
        weight_like="equal",
    ),
    Method(
        "kernel",
        "kernel",
        "the same on the refusals that a step of unlearning would lower most",
        chooses=True,
        weight_like="equal",
    ),
    Method(
        "twins",
        "syntactic twins",
        "the same on prompts that are worded most like a forgotten one",
        chooses=True,
        weight_like="equal",
    ),
    Method(
        "cosine",
        "cosine",
        "the same on prompts whose states lie most along the target's direction",
        chooses=True,
        weight_like="equal",
    ),
    Method(
        "adaptive",
        "adaptive",
        "equal shares with a multiplier a domain that rises while it leaks",
        weighted=False,
        changes={"adaptive": True},
    ),
    Method(
        "kl",
        "KL",
        "KL divergence to the base model on the retained examples",
        changes={"retain_objective": "kl"},
    ),
    Method(
        "ablation",
        "concept ablation",
        "the retained domains' common refusal direction is ablated while training",
        retains=False,
        weighted=False,
    ),
    Method(
        "projection",
        "gradient projection",
        "every step is projected off the gradients of the retained domains' margins",
        retains=False,
        weighted=False,
    ),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _METHODS})


@dataclass(frozen=True)
class Containment:
    """How one arm is kept narrow.

    Attributes:
        method: a name in ``METHODS``.
        examples: retained deflections in all; None is all there are.
        split: which domains were left out, by the number of the split; None where none was.
    """

    method: str
    examples: int | None = None
    split: int | None = None

    @property
    def how(self) -> Method:
        """The method itself."""
        return METHODS[self.method]
