"""The terms of one run's loss: which objective each group of the mixture is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import InputError
from unlearning.losses import RETAIN, Objective, for_forgetting
from unlearning.training.mixture import Mixture
from unlearning.training.settings import TrainingSettings
from unlearning.training.views import View


@dataclass(frozen=True)
class Term:
    """One group's objective with its hyperparameters; ``group`` is None for the forget set.

    ``is_bounded``: whether its rise above the base model's value is watched.
    """

    group: str | None
    objective: Objective
    options: Mapping[str, float]
    is_bounded: bool = False

    @property
    def name(self) -> str:
        """What the log calls it."""
        return "forget" if self.group is None else f"retain_{self.group}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Quantities that the term, or watching its rise, takes."""
        needs = self.objective.needs
        watched = self.is_bounded and "log_probs" in needs and "reference" not in needs
        return (*needs, "reference") if watched else needs

    def base_loss(self, view: View) -> Float[Tensor, "*batch"]:
        """The term on the same examples under the base model; distances to that model are 0."""
        if "log_probs" not in self.needs:
            return torch.zeros(())
        return self.objective({**view, "log_probs": view["reference"]}, **self.options)


def terms_of(settings: TrainingSettings, mixture: Mixture) -> tuple[Term, ...]:
    """The forget term and one retain term for each retained group, in the mixture's order.

    Raises:
        InputError: the objective needs a retain set or preferred responses, and there are none.
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
    """Every quantity that some term names."""
    return frozenset(name for term in terms for name in term.needs)


def weighted_sum(
    terms: Sequence[Term],
    views: Sequence[View],
    weights: Mapping[str, float],
    counts: Int[Tensor, " group"],
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Σ_g w_g · (1/N_g) Σ_i loss_g(i), and each term's share of its mean.

    Args:
        terms: one for each group of the mixture.
        views: the batch's rows, by group.
        weights: of the retain groups; the forget term has weight 1.
        counts: examples of each group in the whole optimizer step, over all processes.
    """
    means = {
        term.name: term.objective(view, **term.options).sum() / count
        for term, view, count in zip(terms, views, counts, strict=True)
        if view
    }
    weighted = [
        means[term.name] * (1.0 if term.group is None else weights[term.group])
        for term in terms
        if term.name in means
    ]
    return torch.stack(weighted).sum(), means
