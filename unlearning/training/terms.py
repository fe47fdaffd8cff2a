"""The terms of one run's loss: the objective of each group of the mixture.

The weights of the retain terms are given, or adapt so that each term stays under its bound.

Adaptive weights are the multipliers of a constrained problem,

    minimise L_forget   subject to   L_d − L_d(base) ≤ bound_d   for every retained domain d,

solved by projected dual ascent (Arrow, Hurwicz & Uzawa 1958; for unlearning, the primal-dual
objectives collected in open-unlearning): after every step λ_d ← max(0, λ_d + rate · (rise_d −
bound_d)). rise_d is the mean, over the step's examples, of the term minus its value under the base
model. A domain below its bound gets weight 0; the weight of a leaking domain grows until the leak
stops.

The difference is taken for each example, because response lengths differ between batches: that
alone moves L_d of a batch by tens of nats from the base model's mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from interp.store import read_json, write_json
from unlearning.losses import RETAIN, Objective, for_forgetting
from unlearning.training.mixture import Mixture
from unlearning.training.settings import TrainingSettings
from unlearning.training.views import View


@dataclass(frozen=True)
class Term:
    """One group's objective with its hyperparameters; ``group`` is None for the forget set.

    ``is_bounded``: whether its rise above the base model's value has a bound.
    """

    group: str | None
    objective: Objective
    options: Mapping[str, float]
    is_bounded: bool = False

    @property
    def name(self) -> str:
        """Its name in the log."""
        return "forget" if self.group is None else f"retain_{self.group}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Quantities that the term and its bound need."""
        needs = self.objective.needs
        watched = self.is_bounded and "log_probs" in needs and "reference" not in needs
        return (*needs, "reference") if watched else needs

    def base_loss(self, view: View) -> Float[Tensor, "*batch"]:
        """The term's value on the same examples under the base model; distances to it are 0."""
        if "log_probs" not in self.needs:
            return torch.zeros(())
        return self.objective({**view, "log_probs": view["reference"]}, **self.options)


def terms_of(settings: TrainingSettings, mixture: Mixture) -> tuple[Term, ...]:
    """The forget term and one retain term for each retained group, in the mixture's order.

    Raises:
        InputError: the objective needs a retain set or preferred responses, which are missing.
    """
    forget = for_forgetting(settings.objective)
    forget.require_retain(present=bool(mixture.retain))
    unpaired = [one.id for one in mixture.forget if one.preferred is None]
    if unpaired and forget.on_pairs:
        raise InputError(
            f"{forget.name} needs a preferred response for every forget example; "
            f"{len(unpaired)} have none ({unpaired[0]}, …): give every Example one"
        )
    retain = RETAIN.find(settings.retain_objective)
    return (
        Term(None, forget, settings.hyperparameters),
        *(Term(name, retain, retain.options, settings.adaptive) for name in mixture.retain),
    )


def needs_of(terms: Sequence[Term]) -> frozenset[str]:
    """The quantities that the terms need."""
    return frozenset(name for term in terms for name in term.needs)


def weighted_sum(
    terms: Sequence[Term],
    views: Sequence[View],
    weights: Mapping[str, float],
    counts: Int[Tensor, " group"],
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Σ_g w_g · (1/N_g) Σ_i loss_g(i), and each term's share of its mean.

    In a step with fewer retain examples than retain groups, groups take turns. Those in the step
    count for as much more as they come less often, so each has its weight over the steps.

    Args:
        terms: one for each group of the mixture.
        views: the batch's rows, by group.
        weights: of the retain groups; the forget term has weight 1.
        counts: number of examples of each group in the whole optimizer step, over all processes.
    """
    means = {
        term.name: term.objective(view, **term.options).sum() / count
        for term, view, count in zip(terms, views, counts, strict=True)
        if view
    }
    turns = _turns(terms, counts)
    weighted = [
        means[term.name] * (1.0 if term.group is None else weights[term.group] * turns)
        for term in terms
        if term.name in means
    ]
    return torch.stack(weighted).sum(), means


def _turns(terms: Sequence[Term], counts: Int[Tensor, " group"]) -> Float[Tensor, ""]:
    """Number of retain groups for each that has examples in the step: 1 where all do."""
    of_retain = counts.new_tensor([term.group is not None for term in terms], dtype=torch.bool)
    return of_retain.sum() / (of_retain & (counts > 0)).sum().clamp(min=1)


FILE = "multipliers.json"


@dataclass
class Weights:
    """The weight of every retain group, and its update.

    Attributes:
        values: weight of the group's mean term, by group.
        bounds: allowed rise of each term above the base model's value; empty for fixed weights.
        rate: increase of a weight per step and unit of excess.
    """

    values: dict[str, float]
    bounds: Mapping[str, float] = field(default_factory=dict)
    rate: float = 0.0

    def scale(self, factor: float) -> None:
        """Multiply every weight."""
        self.values = {name: value * factor for name, value in self.values.items()}

    def update(self, rises: Mapping[str, float]) -> None:
        """One step of dual ascent with the mean rise of every group in the step."""
        for name, rise in rises.items():
            excess = rise - self.bounds[name]
            self.values[name] = max(0.0, self.values[name] + self.rate * excess)

    def save_state(self, folder: Path) -> None:
        """Write the current weights in full precision."""
        write_json(folder / FILE, self.values)

    def load_state(self, folder: Path) -> None:
        """Restore the weights that :meth:`save_state` wrote."""
        self.values = read_json(folder / FILE)


def term_weights(settings: TrainingSettings, mixture: Mixture) -> Weights:
    """The weights that ``settings`` ask for.

    Raises:
        InputError: a share names a group that is not retained, or the shares are invalid.
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
        raise InputError(f"retain_shares are {given}; expected shares of 0 or more, one above 0")
    values = {name: settings.retain_weight * share / total for name, share in shares.items()}
    bounds = dict.fromkeys(names, settings.slack) if settings.adaptive else {}
    return Weights(values, bounds, settings.multiplier_rate)
