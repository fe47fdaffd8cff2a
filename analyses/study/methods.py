"""The registry of containment methods, and the parts of an arm that a method may change.

A method limits leakage: it chooses the retained examples, changes the training settings
(``changes``) or wraps the training loop. A method that chooses examples is a function of the base
model's evidence, the target and the other domains' deflections::

    @method("longest", does="cross-entropy on the longest deflections", weight_like="equal")
    def longest(evidence, concept, pool, seed):
        return pool["response"].str.len().to_numpy(float)  # the largest are taken first

A method that wraps the training loop is a class with a function ``guard``, which makes a
:class:`Guard`. The package's methods are in :mod:`analyses.contain.methods`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from inspect import isfunction
from typing import TYPE_CHECKING, Any, TypeVar

from interp.model import LanguageModel
from interp.registry import About, Registry, require_parameters
from unlearning.losses import for_forgetting
from unlearning.training import Mixture, TrainingSettings, with_references

if TYPE_CHECKING:
    from transformers import TrainerCallback

    from unlearning.training import Stateful

SCORE = ("evidence", "concept", "pool", "seed")
GUARD = ("context", "baseline", "arm", "lm")

C = TypeVar("C", bound=Callable[..., Any])


@dataclass(frozen=True)
class Guard:
    """The additions of a method to the training loop.

    Attributes:
        around_forward: entered around every training step.
        callbacks: Trainer callbacks that may change the step.
        states: further state to keep in checkpoints.
    """

    around_forward: Callable[[], AbstractContextManager[object]] = nullcontext
    callbacks: tuple[TrainerCallback, ...] = ()
    states: Mapping[str, Stateful] = field(default_factory=dict)

    def with_references(
        self, lm: LanguageModel, mixture: Mixture, settings: TrainingSettings
    ) -> Mixture:
        """Reference log-probs of the guarded model; None leaves them to the trainer."""
        if self.around_forward is nullcontext:
            return mixture
        with self.around_forward():
            return with_references(lm, mixture, for_forgetting(settings.objective).needs)


@dataclass(frozen=True)
class Method:
    """One way to limit the leakage of unlearning.

    Attributes:
        about: name, title, paper, badge, colour.
        does: what it does, in a few words.
        retains: whether it trains on retained examples.
        on_all: whether a method that chooses examples also runs with all retained examples.
        weighted: whether the study searches for the weight of its retain term.
        weight_like: the method whose weight it uses if the study does not search for one.
        needs_log_odds: whether it reads refusal log-odds, so that it is left out where refusal is
            read from text.
        contrasts: of (target, retained domains), the domains whose mean differences it reads; it is
            left out where one of them has too few training prompts.
        changes: of the training settings.
        score: of (evidence, concept, pool, seed), a number per example of the pool; None where the
            method does not choose.
        guard: of (context, baseline, arm, lm), a :class:`Guard`; None where there is none.
    """

    about: About
    does: str
    retains: bool = True
    on_all: bool = False
    weighted: bool = True
    weight_like: str | None = None
    needs_log_odds: bool = False
    contrasts: Callable[[str, Sequence[str]], Sequence[str]] = lambda _target, _retained: ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    score: Callable[..., Any] | None = None
    guard: Callable[..., Guard] | None = None

    @property
    def chooses(self) -> bool:
        """Whether it chooses the retained examples, so that it also works with fewer."""
        return self.score is not None


METHODS: Registry[Method] = Registry("containment method", None, "method")


def method(
    name: str,
    *,
    does: str,
    title: str = "",
    paper: str = "",
    badge: str = "",
    differs: str = "",
    colour: str = "",
    option: str = "",
    **options: Any,
) -> Callable[[C], C]:
    """Register a function or class as a containment method; returns it unchanged.

    Args:
        name: on the command line and in the names of arms.
        does: what it does, in a few words.
        title: in figures; the name by default.
        paper: its source.
        badge: ``faithful``, ``simplified`` or ``variant`` of the paper.
        differs: differences from the paper.
        colour: in figures, ``#rrggbb`` (default: a free colour).
        option: on the command line, where it is not the name in files.
        options: ``retains, on_all, weighted, weight_like, needs_log_odds, contrasts, changes`` of
            :class:`Method`.

    Raises:
        InputError: the name is taken, the badge is unknown, or the function takes other parameters.
    """

    def register(made: C) -> C:
        about = About(name, title, paper, badge, differs, colour, option)
        score = made if isfunction(made) else getattr(made, "score", None)
        guard = getattr(made, "guard", None)
        for one, names in ((score, SCORE), (guard, GUARD)):
            if one is not None:
                require_parameters(one, names, f"the containment method {name}")
        METHODS.add(about, Method(about, does, score=score, guard=guard, **options), made)
        return made

    return register


@dataclass(frozen=True)
class Containment:
    """The containment settings of one arm.

    Attributes:
        method: a name in ``METHODS``.
        examples: total number of retained deflections; None means all.
        split: number of the split, which gives the held-out domains; None without held-out domains.
    """

    method: str
    examples: int | None = None
    split: int | None = None

    @property
    def how(self) -> Method:
        """The method itself."""
        return METHODS.find(self.method)
