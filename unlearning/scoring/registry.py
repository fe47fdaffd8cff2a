"""The registry of scorers: what a user can name with ``--scorer``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from interp.errors import InputError
from interp.registry import About, Registry, require_parameters
from unlearning.scoring.classes import Scorer

Factory = Callable[[str], Scorer]


@dataclass(frozen=True)
class ScorerEntry:
    """An entry of the registry.

    Attributes:
        about: name, title, paper, badge.
        make: makes the scorer from the text after the colon of its name.
    """

    about: About
    make: Factory


SCORERS: Registry[ScorerEntry] = Registry("scorer", "unlearning.scoring", "scorer")


def scorer(
    name: str, *, title: str = "", paper: str = "", badge: str = "", differs: str = ""
) -> Callable[[Factory], Factory]:
    """Register a function that makes a scorer from the text after the colon of its name.

    Raises:
        InputError: the name is taken, the badge is unknown, or the function takes other parameters.
    """

    def register(make: Factory) -> Factory:
        about = About(name, title, paper, badge, differs)
        require_parameters(make, ("argument",), f"the scorer {name}")
        SCORERS.add(about, ScorerEntry(about, make), make)
        return make

    return register


def find_scorer(name: str, device: str | None = None) -> Scorer:
    """The scorer that a user names: one of ``SCORERS``, with its argument after a colon.

    ``phrases``, ``grammar``; ``classifier``, or ``classifier:FILE`` after calibration;
    ``judge:MODEL`` or ``judge:MODEL@URL``; ``local-judge:MODEL``; ``sequence-classifier:MODEL`` or
    ``sequence-classifier:MODEL#LABEL``, and ``pair-classifier:`` likewise. A scorer loads its model
    or asks its server at the first use.

    Args:
        name: its name, with the argument.
        device: where its model runs, if it has one in this process (default: CUDA if available). A
            scorer that has a method ``on`` is asked for itself on this device.

    Raises:
        InputError: there is no such scorer, or its file cannot be used.
    """
    kind, _, argument = name.partition(":")
    made = SCORERS.find(kind).make(argument)
    on = getattr(made, "on", None)
    return made if device is None or on is None else on(device)


def take_no_argument(name: str, argument: str) -> None:
    """Refuse an argument for a scorer that takes none.

    Raises:
        InputError: there is an argument.
    """
    if argument:
        raise InputError(f"the scorer {name} takes no argument after a colon, found {argument!r}")
