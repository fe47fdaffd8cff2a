r"""Gradients of the unlearning objective and of refusal log-odds by domain, from one pass each.

S_a is the mean summed log-probability of a's deflections. m_b is the mean refusal log-odds of b's
harmful prompts. Every row passes through the model once, forward and backward. Gradients are means
over disjoint groups of prompts (:mod:`analyses.predict.products` says why). The same pass reads the
log-odds, and the states and their gradients at the last prompt token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from analyses.study import FORECAST_GROUPS
from interp.errors import InputError
from interp.model import LanguageModel, Tokens, in_fitting_batches, reading
from unlearning.training import unmoved_at_first

GROUPS = FORECAST_GROUPS

#: One number for each row of a batch, with its graph.
Scalar = Callable[[LanguageModel, Sequence[Tokens]], Float[Tensor, " batch"]]


@dataclass(frozen=True)
class Gradients:
    """One domain's mean gradients, float32 on the CPU: parameter name → (group, *shape).

    A parameter whose gradient is 0 in every group is left out, such as LoRA's A at its start.
    """

    of: Mapping[str, Float[Tensor, " group *shape"]]


@dataclass(frozen=True)
class PromptReads:
    """What a pass over prompts reads next to gradients of parameters.

    Attributes:
        values: the scalar of every prompt.
        states: every layer's output at the last prompt token, float32.
        by_state: mean gradient of the scalar with respect to these states.
    """

    values: Float[np.ndarray, " prompt"]
    states: Float[np.ndarray, "prompt layer d_model"]
    by_state: Float[np.ndarray, "layer d_model"]


def in_groups(
    rows: Sequence[Tokens], groups: int, prompts: Sequence[int] | None = None, of: str = ""
) -> list[list[Tokens]]:
    """The rows of each group. Prompts take the groups in turn; rows of one prompt share a group.

    Args:
        rows: to divide.
        groups: number of groups.
        prompts: the number of each row's prompt, from 0; None: each row is one prompt. Gradients
            that are multiplied with one another need one numbering of their prompts.
        of: what the prompts are of, for the error.

    Raises:
        InputError: fewer prompts than groups.
    """
    return [[rows[i] for i in chosen] for chosen in _members(len(rows), groups, prompts, of)]


def mean_gradients(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    scalar: Scalar,
    *,
    prompts: Sequence[int] | None = None,
    groups: int = GROUPS,
    batch_size: int = 32,
) -> Gradients:
    """Gradients of the mean of ``scalar`` over every group of rows, for all trainable parameters.

    Rows are assigned to groups as in :func:`in_groups`. The model does not change and accumulates
    no gradient.

    Raises:
        InputError: fewer prompts than groups, or nothing in the model is trainable.
    """
    members = _members(len(rows), groups, prompts)
    passes = _Passes(lm, rows, scalar, _trainable(lm), reads=False)
    passes.run(members, batch_size)
    return Gradients(passes.gradients)


def prompt_gradients(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    scalar: Scalar,
    *,
    prompts: Sequence[int] | None = None,
    groups: int = GROUPS,
    batch_size: int = 32,
) -> tuple[Gradients, PromptReads]:
    """:func:`mean_gradients` of prompts, and what :func:`read_prompts` reads, from the same pass.

    Raises:
        InputError: as in :func:`mean_gradients`.
    """
    passes = _Passes(lm, rows, scalar, _trainable(lm), reads=True)
    passes.run(_members(len(rows), groups, prompts), batch_size)
    return Gradients(passes.gradients), passes.found


def read_prompts(
    lm: LanguageModel, rows: Sequence[Tokens], scalar: Scalar, *, batch_size: int = 32
) -> PromptReads:
    """The scalar of every prompt, and its gradient with respect to states.

    The model must have trainable parameters in every layer (they carry the graph).
    """
    passes = _Passes(lm, rows, scalar, {}, reads=True)
    passes.run([range(len(rows))], batch_size)
    return passes.found


class _Passes:
    """Forward and backward of rows, in batches that fit, and the sums over them."""

    def __init__(
        self,
        lm: LanguageModel,
        rows: Sequence[Tokens],
        scalar: Scalar,
        parameters: Mapping[str, nn.Parameter],
        *,
        reads: bool,
    ) -> None:
        self.lm, self.rows, self.scalar, self.parameters = lm, rows, scalar, parameters
        self.gradients: dict[str, Tensor] = {}
        self.reads = reads
        shape = (lm.n_layers, lm.d_model) if reads else (0, 0)
        self.found = PromptReads(
            np.zeros(len(rows)), np.zeros((len(rows), *shape), np.float32), np.zeros(shape)
        )

    def run(self, members: Sequence[Sequence[int]], batch_size: int) -> None:
        """Pass every group's rows through the model; its mode is restored afterwards."""
        training = self.lm.model.training
        self.lm.model.eval()
        for group, chosen in enumerate(members):
            rows = [self.rows[i] for i in chosen]

            def work(batch: list[int], rows: Sequence[Tokens] = rows) -> _Batch:
                return self._one([rows[i] for i in batch])

            for batch, one in in_fitting_batches(rows, batch_size, work, self.lm.together(rows)):
                self._add(group, len(members), one, len(rows))
                self._keep([chosen[i] for i in batch], one)
        self.lm.model.train(training)

    def _one(self, rows: Sequence[Tokens]) -> _Batch:
        """The scalar of a batch, and its gradients: of parameters, and of states if asked for."""
        seen: list[list[Tensor]] = [[] for _ in self.lm.layers]

        def keep(layer: int, states: Tensor) -> None:
            seen[layer].append(states)

        with reading(list(self.lm.layers) if self.reads else [], keep):
            values = self.scalar(self.lm, rows)
        outputs = [states for calls in seen for states in calls]
        asked = [*self.parameters.values(), *outputs]
        slopes = torch.autograd.grad(values.sum(), asked, allow_unused=True)
        longest = max(len(row) for row in rows)
        # A forward may hold the beginning of a response after the prompts.
        last = [states.shape[1] - longest for states in seen[0]] if self.reads else []
        by_state = iter(slopes[len(self.parameters) :])
        return _Batch(
            values.detach().cpu().double().numpy(),
            slopes[: len(self.parameters)],
            [_at(calls[0], last[0]).detach().float().cpu() for calls in seen if calls],
            [[_at(next(by_state), after).float().cpu() for after in last] for _ in seen if last],
        )

    def _add(self, group: int, groups: int, one: _Batch, rows: int) -> None:
        for (name, parameter), gradient in zip(self.parameters.items(), one.slopes, strict=True):
            if gradient is None:
                continue
            if name not in self.gradients:
                if not gradient.any():
                    continue
                self.gradients[name] = torch.zeros(groups, *parameter.shape)
            self.gradients[name][group].add_(gradient.detach().float().cpu(), alpha=1 / rows)

    def _keep(self, numbers: Sequence[int], one: _Batch) -> None:
        self.found.values[numbers] = one.values
        for layer, (states, slopes) in enumerate(zip(one.states, one.by_state, strict=True)):
            self.found.states[numbers, layer] = states.numpy()
            summed = torch.stack([each.sum(dim=0) for each in slopes]).sum(dim=0)
            self.found.by_state[layer] += summed.double().numpy() / len(self.rows)


@dataclass(frozen=True)
class _Batch:
    """One batch: values, gradients of parameters, states and their gradients by layer."""

    values: Float[np.ndarray, " row"]
    slopes: Sequence[Tensor | None]
    states: Sequence[Float[Tensor, "row d_model"]]
    by_state: Sequence[Sequence[Float[Tensor, "row d_model"]]]


def _at(states: Tensor, after: int) -> Tensor:
    """The states of the last prompt token, which ``after`` tokens follow; rows are left-padded."""
    return states[:, states.shape[1] - 1 - after]


def _trainable(lm: LanguageModel) -> dict[str, nn.Parameter]:
    named = {n: p for n, p in lm.model.named_parameters() if p.requires_grad}
    if not named:
        raise InputError("the model has no trainable parameter; prepare it for training first")
    still = unmoved_at_first(lm)
    return {name: parameter for name, parameter in named.items() if name not in still}


def _members(
    rows: int, groups: int, prompts: Sequence[int] | None = None, of: str = ""
) -> list[list[int]]:
    """The numbers of each group's rows."""
    numbers = np.array(range(rows) if prompts is None else prompts)
    found = [np.flatnonzero(numbers % groups == group).tolist() for group in range(groups)]
    if not all(found):
        raise InputError(
            f"{len(set(numbers))} prompts{of and f' of {of}'} cannot make {groups} groups; give "
            "more prompts"
        )
    return found
