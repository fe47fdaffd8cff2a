"""The registry of estimators: what finds one direction per layer from labelled states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

from interp.registry import About, Registry

C = TypeVar("C", bound=type)


@dataclass(frozen=True)
class EstimatorEntry:
    """An estimator that can be named.

    Attributes:
        about: name, title, paper, badge, colour.
        make: its class; hyperparameters are keywords with defaults.
    """

    about: About
    make: Callable[..., Any]

    def quick(self) -> Any:
        """The estimator with its defaults, but no interval of its reliability (``resamples=0``)."""
        given = {"resamples": 0} if "resamples" in signature(self.make).parameters else {}
        return self.make(**given)


ESTIMATORS: Registry[EstimatorEntry] = Registry("estimator", "interp.directions", "estimator")


def estimator(name: str, **about: str) -> Callable[[C], C]:
    """Register a class whose ``fit(states, labels, groups)`` sets ``direction_``; unchanged.

    Args:
        name: by which it is asked for, ``spillover study --estimator NAME``.
        about: ``title, paper, badge, differs, colour`` of :class:`interp.registry.About`.

    Raises:
        InputError: another estimator has that name.
    """

    def register(made: C) -> C:
        described = About(name, **about)
        ESTIMATORS.add(described, EstimatorEntry(described, made), made)
        return made

    return register


def estimator_title(estimator: object) -> str:
    """The title that an estimator is registered with; the name of its class where it is not."""
    entries = (ESTIMATORS[name] for name in ESTIMATORS)
    titles = (entry.about.title for entry in entries if entry.make is type(estimator))
    return next(titles, type(estimator).__name__)
