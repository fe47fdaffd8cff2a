"""Weights of the retain terms: given, or adapted so that each term stays under its bound.

Adaptive weights are the multipliers of a constrained problem,

    minimise L_forget   subject to   L_d − L_d(base) ≤ bound_d   for every retained domain d,

by projected dual ascent (Arrow, Hurwicz & Uzawa 1958; for unlearning, the primal-dual objectives
collected in open-unlearning): after every step λ_d ← max(0, λ_d + rate · (rise_d − bound_d)), with
rise_d the mean over the step's examples of what the term has gained since the base model. A domain
that holds by itself costs nothing; one that starts to leak pays more until it stops.

The rise is taken example by example: L_d of a batch is above or below the base's mean by the length
of its responses, tens of nats, long before anything leaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from interp.errors import InputError
from interp.store import read_json, write_json
from unlearning.training.mixture import Mixture
from unlearning.training.settings import TrainingSettings

FILE = "multipliers.json"


@dataclass
class Weights:
    """Weight of every retain group, and how it moves.

    Attributes:
        values: weight by group, of the group's mean term.
        bounds: how far each term may rise above the base model's; empty for fixed weights.
        rate: what a weight gains per step and unit of excess.
    """

    values: dict[str, float]
    bounds: Mapping[str, float] = field(default_factory=dict)
    rate: float = 0.0

    def update(self, rises: Mapping[str, float]) -> None:
        """One step of dual ascent with the mean rise of every group that the step had rows of."""
        for name, rise in rises.items():
            excess = rise - self.bounds[name]
            self.values[name] = max(0.0, self.values[name] + self.rate * excess)

    def save_state(self, folder: Path) -> None:
        """Write the weights as they stand, to every digit."""
        write_json(folder / FILE, self.values)

    def load_state(self, folder: Path) -> None:
        """Take up what :meth:`save_state` wrote."""
        self.values = read_json(folder / FILE)


def term_weights(settings: TrainingSettings, mixture: Mixture) -> Weights:
    """The weights that ``settings`` ask for.

    Raises:
        InputError: a share is given for a group that is not retained, or the shares are no shares.
    """
    names = list(mixture.retain)
    unknown = sorted(set(settings.retain_shares) - set(names))
    if unknown:
        raise InputError(
            f"retain_shares names {', '.join(unknown)}; retained are {', '.join(names) or 'none'}"
        )
    shares = {name: settings.retain_shares.get(name, 1.0) for name in names}
    total = sum(shares.values())
    if names and (total <= 0 or min(shares.values()) < 0):
        given = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise InputError(f"retain_shares are {given}; expected none below 0, and one above")
    values = {name: settings.retain_weight * share / total for name, share in shares.items()}
    bounds = dict.fromkeys(names, settings.slack) if settings.adaptive else {}
    return Weights(values, bounds, settings.multiplier_rate)
