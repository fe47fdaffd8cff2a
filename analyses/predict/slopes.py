r"""The slope of every row's scalar along a direction of the weights, from two forwards.

For a direction v and a scalar m_i of row i,

    ⟨v, ∇m_i⟩ ≈ (m_i(θ + ε v) − m_i(θ − ε v)) / 2ε

with an error of order ε². No gradient of a single row is formed, and nothing is stored but one copy
of the weights that move. ``tests/test_prompt_forecast.py`` compares it with explicit gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from analyses.predict.gradients import Scalar
from interp.errors import InputError
from interp.model import LanguageModel, Tokens, map_in_batches
from interp.progress import Advance, silent

#: A direction of the weights: parameter name → its part.
Direction = Mapping[str, Float[Tensor, "*shape"]]


def slopes_along(
    lm: LanguageModel,
    rows: Sequence[Tokens],
    scalar: Scalar,
    direction: Direction,
    step: float,
    *,
    batch_size: int = 32,
    progress: Advance = silent,
) -> Float[np.ndarray, " row"]:
    """⟨v, ∇m_i⟩ of every row i, in units of the scalar per length of v.

    Args:
        lm: the model; its weights are the same bits afterwards.
        rows: to read.
        scalar: m, one number for each row of a batch.
        direction: v; parameters without a part stay where they are.
        step: ε, above 0.
        batch_size: rows in one forward.
        progress: called with the number of rows read, twice for each row.

    Raises:
        InputError: the direction names a parameter that the model lacks; the step is not above 0.
    """
    if not step > 0:
        raise InputError(f"the step is {step}; expected a number above 0")
    ends = []
    training = lm.model.training
    lm.model.eval()
    try:
        for sign in (1, -1):
            with moved(lm, direction, sign * step), torch.no_grad():
                ends.append(
                    map_in_batches(
                        lambda chosen: _values(lm, [rows[i] for i in chosen], scalar),
                        rows, batch_size, progress, lm.together(rows),
                    )
                )  # fmt: skip
    finally:
        lm.model.train(training)
    above, below = (np.reshape(np.asarray(end, dtype=np.float64), -1) for end in ends)
    return (above - below) / (2 * step)


@contextmanager
def moved(lm: LanguageModel, direction: Direction, by: float) -> Iterator[None]:
    """The model at θ + by · v; afterwards at θ, bit by bit.

    Raises:
        InputError: the direction names a parameter that the model lacks.
    """
    parameters = dict(lm.model.named_parameters())
    if unknown := direction.keys() - parameters.keys():
        raise InputError(f"the model has no parameter {min(unknown)}")
    # In main memory, because a device may hold no second copy of the weights.
    kept = {name: parameters[name].detach().to("cpu", copy=True) for name in direction}
    try:
        with torch.no_grad():
            for name, part in direction.items():
                parameter = parameters[name]
                parameter.add_((by * part.double()).to(parameter.device, parameter.dtype))
        yield
    finally:
        with torch.no_grad():
            for name, value in kept.items():
                parameters[name].copy_(value)


def _values(lm: LanguageModel, rows: Sequence[Tokens], scalar: Scalar) -> np.ndarray:
    return scalar(lm, rows).detach().cpu().double().numpy()
