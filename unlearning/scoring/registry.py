"""The registry of scorers: what a user can name with ``--scorer``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from interp.errors import InputError
from interp.registry import About, Registry, require_parameters
from unlearning.scoring.classes import Scorer
from unlearning.scoring.rubrics import REFUSAL

Factory = Callable[..., Scorer]


@dataclass(frozen=True)
class ScorerEntry:
    """An entry of the registry.

    Attributes:
        about: name, title, paper, badge.
        make: makes the scorer from the text after the colon of its name.
        scales: the scales that it reads; with several, ``make`` also takes one of them.
    """

    about: About
    make: Factory
    scales: Sequence[str] = (REFUSAL.name,)


SCORERS: Registry[ScorerEntry] = Registry("scorer", "unlearning.scoring", "scorer")


def scorer(
    name: str, *, scales: Sequence[str] = (REFUSAL.name,), **about: str
) -> Callable[[Factory], Factory]:
    """Register a function that makes a scorer from the text after the colon of its name.

    Args:
        name: what a user types.
        scales: names of the scales that it reads; with several, the function takes one of them as
            its second argument.
        about: ``title, paper, badge, differs`` of :class:`interp.registry.About`.

    Raises:
        InputError: the name is taken, the badge is unknown, or the function takes other parameters.
    """

    def register(make: Factory) -> Factory:
        described = About(name, **about)
        taken = ("argument", "scale") if len(scales) > 1 else ("argument",)
        require_parameters(make, taken, f"the scorer {name}")
        SCORERS.add(described, ScorerEntry(described, make, scales), make)
        return make

    return register


def find_scorer(name: str, device: str | None = None, *, scale: str = REFUSAL.name) -> Scorer:
    """The scorer that a user names: one of ``SCORERS``, with its argument after a colon.

    ``phrases``, ``grammar``; ``classifier``, or ``classifier:FILE`` after calibration;
    ``judge:MODEL`` or ``judge:MODEL@URL``; ``local-judge:MODEL``; ``sequence-classifier:MODEL`` or
    ``sequence-classifier:MODEL#LABEL``, and ``pair-classifier:`` likewise; ``wildguard``,
    ``wildguard:MODEL``, ``wildguard@URL`` or ``wildguard:MODEL@URL``, and other published readers
    likewise. A scorer loads its model or asks its server at the first use.

    Args:
        name: its name, with the argument.
        device: where its model runs, if it has one in this process (default: CUDA if available). A
            scorer that has a method ``on`` is asked for itself on this device.
        scale: what it reads. A reader of harm alone is refused as a scorer of refusals.

    Raises:
        InputError: there is no such scorer, it does not read this scale, or its file cannot be
            used.
    """
    at = re.match(r"([^:@]*)@https?://", name)
    kind, argument = (at[1], name[len(at[1]) :]) if at else name.partition(":")[::2]
    entry = SCORERS.find(kind)
    if scale not in entry.scales:
        raise InputError(
            f"{kind} has no scale {scale}; a judge has: judge:MODEL or local-judge:MODEL"
            if scale != REFUSAL.name
            else f"{kind} does not read refusals, but whether a response is {entry.scales[0]}; use "
            f"`spillover score FILE --scorer {kind} --scale {entry.scales[0]}` next to a scorer of "
            "refusals"
        )
    made = entry.make(argument, scale) if len(entry.scales) > 1 else entry.make(argument)
    on = getattr(made, "on", None)
    return made if device is None or on is None else on(device)


def take_no_argument(name: str, argument: str) -> None:
    """Refuse an argument for a scorer that takes none.

    Raises:
        InputError: there is an argument.
    """
    if argument:
        raise InputError(f"the scorer {name} takes no argument after a colon, found {argument!r}")
