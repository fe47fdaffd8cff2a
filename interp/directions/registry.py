"""The registry of estimators, which find one direction per layer from labelled states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

from interp.errors import InputError
from interp.registry import About, Registry, require_parameters

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class EstimatorEntry:
    """A registered estimator.

    Attributes:
        about: name, title, paper, badge, colour.
        make: its class; hyperparameters are keywords with defaults.
    """

    about: About
    make: Callable[..., Any]

    def quick(self) -> Any:
        """The estimator with defaults, without an interval of its reliability (``resamples=0``)."""
        given = {"resamples": 0} if "resamples" in signature(self.make).parameters else {}
        return self.make(**given)


FIT = ("states", "labels", "groups")
ESTIMATORS: Registry[EstimatorEntry] = Registry("estimator", "interp.directions", "estimator")


def estimator(name: str, **about: str) -> Callable[[C], C]:
    """Register a class whose ``fit(states, labels, groups)`` sets ``direction_``; returns it.

    Args:
        name: the name to request it by, ``spillover study --estimator NAME``.
        about: ``title, paper, badge, differs, colour`` of :class:`interp.registry.About`.

    Raises:
        InputError: another estimator has that name, or this one has no such ``fit``.
    """

    def register(made: C) -> C:
        described = About(name, **about)
        fit = getattr(made, "fit", None)
        if fit is None:
            raise InputError(f"the estimator {name} has no fit(states, labels, groups)")
        require_parameters(fit, FIT, f"the estimator {name}: fit", bound=False)
        ESTIMATORS.add(described, EstimatorEntry(described, made), made)
        return made

    return register


def estimator_title(estimator: object) -> str:
    """The registered title of an estimator, or its class name if it is not registered."""
    entries = (ESTIMATORS[name] for name in ESTIMATORS)
    titles = (entry.about.title for entry in entries if entry.make is type(estimator))
    return next(titles, type(estimator).__name__)
