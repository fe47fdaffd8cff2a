r"""The logit lens: the model's logits if an intermediate state were its last state.

A state replaces the last layer's output, and the model applies its remaining steps: final norm,
unembedding, and soft caps and logit scales if it has them (nostalgebraist 2020). The forward runs
on one dummy token per state, so the earlier layers cost little.

Direct logit attribution (Elhage et al. 2021) measures the direct effect of a direction on logits.
Here it is the lens's derivative along the direction at given states,
:math:`\partial_\varepsilon\, \mathrm{lens}(h + \varepsilon v)`. The final norm's scale is not held
fixed, so the derivative is the exact first-order effect. For a direction perpendicular to the
(centred) state it equals the usual :math:`W_U (\gamma \odot v) / \sigma(h)`. Along the state it is
zero, because the norm removes the state's length.

Limits: neither method shows the effect of later layers on the state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from interp.errors import InputError
from interp.interventions.edits import Vector
from interp.model import (
    Hidden,
    LanguageModel,
    Tokens,
    doubled,
    in_fitting_batches,
    placed,
    undisturbed,
    writing,
)
from interp.readout import OfLogits

States = Float[Tensor, "*batch d_model"] | Float[np.ndarray, "*batch d_model"]


def lens_logits(
    lm: LanguageModel, states: States, *, batch_size: int = 256
) -> Float[Tensor, "*batch vocab"]:
    """The lens's logits for each state, on the CPU, in float32 at least.

    For the last layer's states these are the model's logits. For many states and a large
    vocabulary use :func:`lens_readout`, which keeps one number per state.

    Raises:
        InputError: there are no states, or their width is not the model's.
    """
    rows = _rows(lm, states)
    logits = torch.cat([*_in_parts(rows, batch_size, lambda part: _finish(lm, part).cpu())])
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide).reshape(*states.shape[:-1], -1)


def lens_readout(
    lm: LanguageModel, states: States, function: OfLogits, *, batch_size: int = 256
) -> Float[np.ndarray, "*batch"]:
    """A number from the lens's logits for every state, in float64; the axes before d_model stay."""
    rows = _rows(lm, states)

    def read(part: Tensor) -> Tensor:
        return function(_finish(lm, part)).cpu().double()

    values = torch.cat([*_in_parts(rows, batch_size, read)])
    return values.reshape(tuple(states.shape[:-1])).numpy()


def direct_logit_attribution(
    lm: LanguageModel, direction: Vector, states: States, *, batch_size: int = 256
) -> Float[Tensor, " vocab"]:
    """First-order direct effect of ``direction`` on each logit, averaged over ``states``.

    Args:
        lm: the model.
        direction: (d_model), not normalised; the effect is proportional to its length.
        states: outputs of the last layer.
        batch_size: states in one forward, halved when memory runs out.

    Raises:
        InputError: there are no states, or the width of states or direction is not the model's.
    """
    rows = _rows(lm, states)
    vector = _rows(lm, torch.as_tensor(direction)[None])[0]

    def effect(part: Tensor) -> Tensor:
        with forward_ad.dual_level():
            moved = forward_ad.make_dual(part, vector.to(part).expand_as(part).contiguous())
            tangent = forward_ad.unpack_dual(_finish(lm, moved)).tangent
            return doubled(tangent).sum(dim=0).cpu()

    return torch.stack([*_in_parts(rows, batch_size, effect)]).sum(dim=0) / len(rows)


def top_tokens(
    lm: LanguageModel, logits: Float[Tensor, " vocab"], count: int = 10
) -> list[tuple[str, float]]:
    """The tokens with the highest logits, as text, each with its logit."""
    values, ids = logits.topk(count)
    texts = (str(lm.tokenizer.decode([i])) for i in ids.tolist())
    return list(zip(texts, values.tolist(), strict=True))


def _in_parts(
    rows: Float[Tensor, "state d_model"], batch_size: int, work: Callable[[Tensor], Tensor]
) -> Iterator[Tensor]:
    """The result of ``work`` for some rows at a time, in their order."""
    dummies = [_DUMMY] * len(rows)
    for _, result in in_fitting_batches(dummies, batch_size, lambda chosen: work(rows[chosen])):
        yield result


def _finish(lm: LanguageModel, states: Float[Tensor, "state d_model"]) -> Tensor:
    """Logits when ``states`` replace the last layer's output."""
    batch = lm.chat.pad([_DUMMY] * len(states), lm.device)

    def put(hidden: Hidden) -> Hidden:
        return states.to(hidden)[:, None]

    with undisturbed(lm.model), writing(lm.layers[-1], put):
        return lm.logits(batch, keep=1)[:, -1]


_DUMMY = Tokens((0,), {})


def _rows(lm: LanguageModel, states: States) -> Float[Tensor, "state d_model"]:
    if states.shape[-1] != lm.d_model:
        raise InputError(
            f"states of width {states.shape[-1]}; {lm.name}'s residual stream has {lm.d_model}"
        )
    rows = torch.as_tensor(states).reshape(-1, lm.d_model)
    if not len(rows):
        raise InputError("no states for the logit lens; give at least one")
    return placed(rows, lm.device)
