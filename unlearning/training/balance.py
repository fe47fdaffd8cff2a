"""The retain weight as a ratio of gradient norms: a unit that carries over between models.

A weight of the loss means little by itself: the norms of the forget and retain gradients differ
between models, objectives and response lengths by orders of magnitude. With the unit ``gradient``,
the weight r stands for the loss weight

    w = r · ‖∇ L_forget‖ / ‖∇ L_retain‖,

where L_retain is the weighted mean of the retain terms (weights that sum to 1) and both gradients
are taken at the base model, by the trained parameters, over the first examples of the training
stream. At r = 1 the two terms begin with equal force. (GradNorm, Chen et al. 2018, arXiv
1711.02257, balances the same norms at every step.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from interp.errors import InputError
from unlearning.training.mixture import rows_of
from unlearning.training.terms import Term
from unlearning.training.views import View

# Forget examples over which the norms are taken.
MEASURED = 64

Batch = Mapping[str, Tensor]


def gradient_ratio(
    model: nn.Module,
    batches: Sequence[Batch],
    terms: Sequence[Term],
    weights: Mapping[str, float],
    *,
    views_of: Callable[[Batch], Sequence[View]],
    around: Callable[[], AbstractContextManager[object]],
) -> float:
    """‖∇ L_forget‖ / ‖∇ L_retain‖; the model is left without gradients.

    Args:
        model: the base model with its trained parameters.
        batches: collated examples of all groups.
        terms: one for each group; the forget term is the first.
        weights: of the retain groups; only their ratios count.
        views_of: the quantities of a batch's rows, by group.
        around: context manager around every forward and backward.

    Raises:
        InputError: one of the two gradients is 0, as that of a distance to the base model is.
    """
    total = sum(weights.values())
    shares = [1.0, *(weights[term.group] / total for term in terms[1:] if term.group is not None)]

    def norm(*, forget: bool) -> float:
        sides = [rows_of(batch, (batch["group"] == 0) == forget) for batch in batches]
        groups = torch.cat([side["group"][side["counted"]] for side in sides])
        counts = torch.bincount(groups, minlength=len(terms)).tolist()
        model.zero_grad()
        for side in sides:
            with around():
                parts = zip(terms, views_of(side), shares, counts, strict=True)
                losses = [
                    share / count * term.objective(view, **term.options).sum()
                    for term, view, share, count in parts
                    if view
                ]
                torch.stack(losses).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        model.zero_grad()
        # In float32 whatever the parameters: a sum of millions of squares.
        norms = (torch.linalg.vector_norm(g, dtype=torch.float32) for g in gradients)
        return math.hypot(*map(float, norms))

    forget, retain = norm(forget=True), norm(forget=False)
    if not (forget > 0 and retain > 0):
        flat = terms[1 if forget > 0 else 0].objective.name
        raise InputError(
            f"{flat} has no gradient at the base model, so there is no ratio of gradient norms; "
            "give the retain weight in units of the loss (--retain-unit loss)"
        )
    return forget / retain
