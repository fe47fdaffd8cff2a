r"""Gradients of the unlearning objective and of refusal log-odds by domain, and their products.

S_a is the mean summed log-probability of a's deflections. m_b is the mean refusal log-odds of b's
harmful prompts. At the start NPO has the gradient of S_a, for every β. One small step of NPO lowers
m_b by the learning rate times the objective kernel:

    K_S[a,b] = ⟨P ∇S_a, ∇m_b⟩        the objective kernel
    K_m[a,b] = ⟨P ∇m_a, ∇m_b⟩        the log-odds kernel: no noise of prefixes, no saturation

P is the identity or Adam's diagonal. K[a,b]/K[a,a] has no unit: it is b's loss relative to a's.

Gradients are means over disjoint groups of prompts. Products use different groups, so a domain's
sampling noise does not multiply with itself. The groups also give the standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.model import LanguageModel, Tokens, in_fitting_batches, reading
from interp.progress import Advance, silent

GROUPS = 4
ADAM_EPSILON = 1e-8
# K[a,a] must be this many standard errors above 0 to divide by.
TOLD_FROM_ZERO = 2.0

#: One number for each row of a batch, with its graph.
Scalar = Callable[[LanguageModel, Sequence[Tokens]], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class Gradients:
    """One domain's mean gradients, float32 on the CPU: parameter name → (group, *shape)."""

    of: Mapping[str, Float[Tensor, "group *shape"]]


def in_groups(
    rows: Sequence[Tokens], groups: int, prompts: Sequence[object] | None = None, of: str = ""
) -> list[list[Tokens]]:
    """The rows of each group. Prompts take the groups in turn; rows of one prompt share a group.

    Args:
        rows: to divide; each is one prompt by default.
        groups: number of groups.
        prompts: the prompt of each row.
        of: what the prompts are of, for the error.

    Raises:
        InputError: fewer prompts than groups.
    """
    numbers, different = pd.factorize(np.array(range(len(rows)) if prompts is None else prompts))
    if len(different) < groups:
        raise InputError(
            f"{len(different)} prompts{of and f' of {of}'} cannot make {groups} groups; give more "
            "prompts"
        )
    return [
        [row for row, number in zip(rows, numbers, strict=True) if number % groups == group]
        for group in range(groups)
    ]


def mean_gradients(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    scalar: Scalar,
    *,
    prompts: Sequence[object] | None = None,
    groups: int = GROUPS,
    batch_size: int = 32,
    progress: Advance = silent,
) -> Gradients:
    """Gradients of the mean of ``scalar`` over every group of rows, for all trainable parameters.

    Rows are assigned to groups as in :func:`in_groups`. The model does not change and accumulates
    no gradient.

    Raises:
        InputError: fewer prompts than groups, or nothing in the model is trainable.
    """
    by_group = in_groups(rows, groups, prompts)
    named = {n: p for n, p in lm.model.named_parameters() if p.requires_grad}
    if not named:
        raise InputError("the model has no trainable parameter; prepare it for training first")
    training = lm.model.training
    lm.model.eval()
    found = {n: torch.zeros(groups, *p.shape) for n, p in named.items()}
    for group, chosen in enumerate(by_group):

        def slopes(batch: list[int], chosen: Sequence[Tokens] = chosen) -> Sequence[Tensor | None]:
            values = scalar(lm, [chosen[i] for i in batch])
            return torch.autograd.grad(values.sum(), list(named.values()), allow_unused=True)

        for batch, each in in_fitting_batches(chosen, batch_size, slopes, lm.together(chosen)):
            for name, gradient in zip(named, each, strict=True):
                if gradient is not None:
                    found[name][group] += gradient.detach().float().cpu() / len(chosen)
            progress(len(batch))
    lm.model.train(training)
    return Gradients(found)


@dataclass(frozen=True)
class Kernel:
    """Products of gradients, a row for each source, a column for each target.

    Attributes:
        values: K[a,b].
        standard_error: jackknife over groups.
        left_out: K without each group in turn, the basis of the standard errors.
    """

    values: Float[np.ndarray, "source target"]
    standard_error: Float[np.ndarray, "source target"]
    left_out: Float[np.ndarray, "group source target"]

    @classmethod
    def from_products(cls, products: Float[np.ndarray, "group group source target"]) -> Kernel:
        """The kernel from the products of every source group with every target group.

        Raises:
            InputError: fewer than three groups, too few for a standard error.
        """
        if len(products) < 3:
            raise InputError(
                f"{len(products)} groups are too few for a standard error; give at least 3"
            )
        return _with_errors(_across(products), _jackknifed(products))

    def with_undefined(
        self, sources: Sequence[bool], targets: Sequence[bool] | None = None
    ) -> Kernel:
        """The kernel with NaN for the sources, and the targets, that are not given (true)."""
        given = [True] * self.values.shape[1] if targets is None else targets
        rows, columns = np.ix_(np.flatnonzero(sources), np.flatnonzero(given))

        def filled(values: np.ndarray) -> np.ndarray:
            found = np.full((*values.shape[:-2], len(sources), len(given)), np.nan)
            found[..., rows, columns] = values
            return found

        return Kernel(filled(self.values), filled(self.standard_error), filled(self.left_out))

    def relative(self) -> Kernel:
        """K[a,b]/K[a,a]; NaN for a source whose K[a,a] does not differ from 0."""
        own = np.diag(self.values)
        told = own > TOLD_FROM_ZERO * np.diag(self.standard_error)

        def divided(k: np.ndarray) -> np.ndarray:
            with np.errstate(divide="ignore", invalid="ignore"):
                return np.where(told[:, None], k / np.diag(k)[:, None], np.nan)

        return _with_errors(divided(self.values), np.array([divided(k) for k in self.left_out]))


def gradient_kernel(
    sources: Mapping[str, Gradients],
    targets: Mapping[str, Gradients],
    *,
    adam: bool = False,
    within: Callable[[str], bool] = lambda _name: True,
) -> Kernel:
    """⟨P ∇f_a, ∇g_b⟩ over the parameters that ``within`` names.

    Args:
        sources, targets: gradients of f and of g of the same domains, in the same groups.
        adam: use Adam's diagonal for the source's mean square gradient as P, not the identity.
        within: selects parameters by name, for example those of one layer or module.

    Raises:
        InputError: fewer than three groups, too few for a standard error.
    """
    groups = len(next(iter(next(iter(sources.values())).of.values())))
    products = np.zeros((groups, groups, len(sources), len(targets)))
    for i, source in enumerate(sources.values()):
        for name, gradient in source.of.items():
            if not within(name):
                continue
            left = gradient.flatten(1)
            if adam:
                left = left / ((left**2).mean(dim=0).sqrt() + ADAM_EPSILON)
            for j, target in enumerate(targets.values()):
                right = target.of[name].flatten(1)
                products[:, :, i, j] += (left @ right.T).double().numpy()
    return Kernel.from_products(products)


def gradient_cosine(
    sources: Mapping[str, Gradients],
    targets: Mapping[str, Gradients],
    *,
    within: Callable[[str], bool] = lambda _name: True,
) -> Float[np.ndarray, "source target"]:
    """K[a,b] divided by both gradients' lengths, all from products of different groups.

    NaN where an estimated squared length is not above 0.
    """
    between = gradient_kernel(sources, targets, within=within).values
    lengths = [
        np.diag(gradient_kernel(side, side, within=within).values).clip(min=0) ** 0.5
        for side in (sources, targets)
    ]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = between / (lengths[0][:, None] * lengths[1])
    return np.where(np.isfinite(found), found, np.nan)


def _across(products: Float[np.ndarray, "group group source target"]) -> np.ndarray:
    """Mean over pairs of different groups."""
    n = len(products)
    own = np.einsum("ggst->st", products)
    return (products.sum(axis=(0, 1)) - own) / (n * (n - 1))


def _jackknifed(products: np.ndarray) -> np.ndarray:
    n = len(products)
    kept = [[g for g in range(n) if g != without] for without in range(n)]
    return np.array([_across(products[np.ix_(rest, rest)]) for rest in kept])


def _with_errors(values: np.ndarray, left_out: np.ndarray) -> Kernel:
    n = len(left_out)
    spread = ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
    return Kernel(values, np.sqrt((n - 1) / n * spread), left_out)


def residual_gradients(
    lm: LanguageModel, rows: Sequence[Tokens], scalar: Scalar, *, batch_size: int = 32
) -> Float[np.ndarray, "layer d_model"]:
    """Mean gradient of ``scalar`` with respect to each layer's output at the last prompt token.

    The model must have trainable parameters in every layer (they carry the graph). Where
    ``scalar`` needs several forward passes, the gradient is that of the first.
    """
    found = torch.zeros(lm.n_layers, lm.d_model)

    def slopes(batch: list[int]) -> Float[Tensor, "layer d_model"]:
        hidden: dict[int, Tensor] = {}

        def keep(layer: int, states: Tensor) -> None:
            hidden.setdefault(layer, states)

        with reading(list(lm.layers), keep):
            values = scalar(lm, [rows[i] for i in batch])
        each = torch.autograd.grad(values.sum(), [hidden[i] for i in range(lm.n_layers)])
        return torch.stack([g[:, -1].sum(dim=0).float().cpu() for g in each])

    for _, summed in in_fitting_batches(rows, batch_size, slopes, lm.together(rows)):
        found += summed / len(rows)
    return found.double().numpy()
