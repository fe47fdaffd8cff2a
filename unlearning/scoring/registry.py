"""The registry of scorers: what a user can name with ``--scorer``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from interp.errors import InputError
from interp.registry import About, Registry
from unlearning.scoring.classes import Scorer

Factory = Callable[[str], Scorer]


@dataclass(frozen=True)
class ScorerEntry:
    """A scorer that can be named.

    Attributes:
        about: name, title, paper, badge.
        make: the scorer, from what stands after the colon of its name.
    """

    about: About
    make: Factory


SCORERS: Registry[ScorerEntry] = Registry("scorer", "unlearning.scoring", "scorer")


def scorer(
    name: str, *, title: str = "", paper: str = "", badge: str = "", differs: str = ""
) -> Callable[[Factory], Factory]:
    """Register a function that makes a scorer of what stands after the colon of its name.

    Raises:
        InputError: the name is taken, or the badge is unknown.
    """

    def register(make: Factory) -> Factory:
        about = About(name, title, paper, badge, differs)
        SCORERS.add(about, ScorerEntry(about, make), make)
        return make

    return register


def find_scorer(name: str) -> Scorer:
    """The scorer that a user names: one of ``SCORERS``, and after a colon what it wants to know.

    ``phrases``, ``grammar``; ``classifier``, or ``classifier:FILE`` after calibration;
    ``judge:MODEL`` or ``judge:MODEL@URL``; ``local-judge:MODEL``; ``sequence-classifier:MODEL`` or
    ``sequence-classifier:MODEL#LABEL``, and ``pair-classifier:`` likewise. Models are loaded, and
    servers asked, when something is scored.

    Raises:
        InputError: there is no such scorer, or its file cannot be used.
    """
    kind, _, argument = name.partition(":")
    return SCORERS.find(kind).make(argument)


def take_no_argument(name: str, argument: str) -> None:
    """Refuse what stands after the colon of a scorer that takes nothing.

    Raises:
        InputError: something stands there.
    """
    if argument:
        raise InputError(f"the scorer {name} takes nothing after a colon, found {argument!r}")
