"""The registry of losses, and the quantities that each loss needs of a batch.

A loss is a pure function that returns one number per example. Its positional parameters are named
after the quantities it needs (see :data:`QUANTITIES`), as pytest's fixtures are; its keyword-only
parameters are hyperparameters and have defaults. So a new one is its equation and a decorator::

    @objective
    def hinge(log_probs, reference, mask, *, offset=1.0):
        return (offset + sequence_log_ratio(log_probs, reference, mask)).relu()

The training code reads ``needs`` and supplies these quantities only.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from numbers import Real
from typing import Any, TypeVar, overload

from jaxtyping import Bool, Float
from torch import Tensor

from interp.errors import InputError
from interp.numbers import plain_number
from interp.registry import About, Registry

LogProbs = Float[Tensor, "batch token"]
Mask = Bool[Tensor, "batch token"]
Logits = Float[Tensor, "batch token vocab"]
States = Float[Tensor, "batch token d_model"]
Control = Float[Tensor, "d_model"]
PerExample = Float[Tensor, "batch"]

QUANTITIES: Mapping[str, str] = {
    "log_probs": "batch token: log π_θ of every response token, in nats; 0 outside the mask",
    "reference": "batch token: the same under the reference model",
    "mask": "batch token, bool: where a token of the response is predicted",
    "logits": "batch token vocab: at the positions that predict the response",
    "reference_logits": "batch token vocab: the same of the reference model",
    "states": "batch token d_model: residual stream after the chosen layer, same positions",
    "reference_states": "batch token d_model: the same of the reference model",
    "control": "d_model: RMU's random unit vector, drawn from the seed",
    "preferred_log_probs": "batch token: as log_probs, for the prompt's preferred response",
    "preferred_reference": "batch token: the same under the reference model",
    "preferred_mask": "batch token, bool: where the preferred response is predicted",
}
"""The quantities that a loss may need: name, shape and meaning. ``token`` differs between the two
responses. Every position is the one that PREDICTS a response token."""

Loss = TypeVar("Loss", bound=Callable[..., Any])


@dataclass(frozen=True)
class Objective:
    """A registered loss.

    Attributes:
        about: name (the function's), title, paper, badge, colour.
        loss: the function.
        needs: names of the quantities it takes, in the order of its parameters.
        options: its hyperparameters and their defaults.
        requires_retain: whether it is defined only together with a retain term.
    """

    about: About
    loss: Callable[..., PerExample]
    needs: tuple[str, ...]
    options: Mapping[str, float]
    requires_retain: bool = False

    @property
    def name(self) -> str:
        """The function's name."""
        return self.about.name

    @property
    def on_pairs(self) -> bool:
        """Whether it needs a preferred response."""
        return any(need.startswith("preferred") for need in self.needs)

    @property
    def is_distance(self) -> bool:
        """Whether it compares with the base model, where its value and gradient are then 0."""
        return any(need.startswith("reference_") for need in self.needs)

    def require_retain(self, *, present: bool) -> None:
        """Check that the loss has the retain set that its definition requires.

        Raises:
            InputError: the loss needs a retain set, and ``present`` is False.
        """
        if self.requires_retain and not present:
            raise InputError(
                f"{self.name} needs a retain set; name domains with --retain, or use "
                "gradient_ascent"
            )

    def __call__(self, view: Mapping[str, Tensor], **options: float) -> PerExample:
        """The loss of every example of ``view``, which holds at least the needed quantities.

        Raises:
            InputError: the view lacks a quantity, or the loss is not one number per example.
        """
        missing = [need for need in self.needs if need not in view]
        if missing:
            raise InputError(
                f"{self.name} needs {', '.join(missing)}; the batch has {', '.join(view)}"
            )
        values = self.loss(*(view[need] for need in self.needs), **options)
        expected = next(view[need].shape[:1] for need in self.needs if need != "control")
        if values.shape != expected:
            raise InputError(
                f"{self.name} returned shape {tuple(values.shape)}; expected one number per "
                f"example, {tuple(expected)}: reduce over tokens, not over the batch"
            )
        return values

    def validated(self, options: Mapping[str, float]) -> dict[str, float]:
        """The defaults, overridden by ``options``.

        Raises:
            InputError: an option is unknown (the message lists the known ones) or not a number.
        """
        unknown = [name for name in options if name not in self.options]
        if unknown:
            raise InputError(
                f"{self.name} has no option {', '.join(unknown)}; "
                f"expected {_listed(self.options) if self.options else 'none'}"
            )
        for name, value in options.items():
            if not isinstance(value, Real):
                raise InputError(f"{self.name}: {name} is {value!r}; expected a number")
        return {**self.options, **{name: plain_number(one) for name, one in options.items()}}


FORGET: Registry[Objective] = Registry("objective", "unlearning.losses", "objective")
RETAIN: Registry[Objective] = Registry("retain term", "unlearning.losses", "retain_term")


@overload
def objective(function: Loss) -> Loss: ...
@overload
def objective(
    function: None = None, *, requires_retain: bool = False, **about: str
) -> Callable[[Loss], Loss]: ...
def objective(
    function: Loss | None = None, *, requires_retain: bool = False, **about: str
) -> Loss | Callable[[Loss], Loss]:
    """Register a loss for the forget set under its own name; returns the function unchanged.

    A notebook cell that defines it may be run again: the new definition replaces the old.

    Args:
        function: the loss.
        requires_retain: whether it is defined only with a retain term next to it.
        about: ``title, paper, badge, differs, colour`` of :class:`interp.registry.About`.

    Raises:
        InputError: a parameter is not a known quantity, a hyperparameter has no numeric default,
            or another function has the name.
    """
    register = partial(_register, FORGET, about, requires_retain)
    return register if function is None else register(function)


@overload
def retain_term(function: Loss) -> Loss: ...
@overload
def retain_term(function: None = None, **about: str) -> Callable[[Loss], Loss]: ...
def retain_term(function: Loss | None = None, **about: str) -> Loss | Callable[[Loss], Loss]:
    """Register a loss for the retain sets, as :func:`objective` does for the forget set."""
    register = partial(_register, RETAIN, about, False)
    return register if function is None else register(function)


def for_forgetting(name: str) -> Objective:
    """The loss of that name for the forget set: any loss, since control arms use retain terms.

    Raises:
        InputError: the name is unknown; the message lists the known ones.
    """
    return RETAIN[name] if name not in FORGET and name in RETAIN else FORGET.find(name)


def _register(
    table: Registry[Objective], about: Mapping[str, str], requires_retain: bool, function: Loss
) -> Loss:
    name = function.__name__
    if not name.isidentifier():
        raise InputError(f"a loss is registered under its name, and {name} cannot be one; use def")
    needs, options = _parameters(function)
    described = About(name, **about)
    table.add(described, Objective(described, function, needs, options, requires_retain), function)
    return function


def _parameters(function: Callable[..., Any]) -> tuple[tuple[str, ...], dict[str, float]]:
    """The names of the positional parameters, and the keyword-only ones with their defaults."""
    needs: list[str] = []
    options: dict[str, float] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            if not isinstance(parameter.default, (int, float)):
                raise InputError(
                    f"{function.__name__}: the hyperparameter {name} needs a number as default"
                )
            options[name] = parameter.default
        elif name in QUANTITIES:
            needs.append(name)
        else:
            raise InputError(
                f"{function.__name__}: {name} is not a quantity of a batch; expected some of "
                f"{_listed(QUANTITIES)} (write hyperparameters after a *)"
            )
    if not set(needs) - {"control"}:
        raise InputError(
            f"{function.__name__} uses no quantity of a batch; expected {_listed(QUANTITIES)}"
        )
    return tuple(needs), options


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(names)
