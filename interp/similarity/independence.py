r"""Representational independence of two directions (Wollschläger et al. 2025, definition 5.1).

Orthogonal directions may still depend on one another: ablating one changes, through later layers,
how much of the other there is. Directions :math:`\lambda` and :math:`\mu` are representationally
independent if at every layer :math:`\cos(x, \lambda) = \cos(x_{\mathrm{abl}(\mu)}, \lambda)` and
the same with their roles exchanged, where :math:`x_{\mathrm{abl}(\mu)}` is the state while
:math:`\mu` is ablated. The measure here is the mean absolute difference of the two sides over
prompts: 0 for independent directions, at most 2. It is directed.

Source: Wollschläger et al. 2025, "The Geometry of Refusal in Large Language Models: Concept Cones
and Representational Independence", arXiv 2502.17420.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.statistics import unit


def cosine_shift(
    before: Float[np.ndarray, "prompt layer d_model"],
    after: Float[np.ndarray, "prompt layer d_model"],
    direction: Float[np.ndarray, " d_model"],
) -> Float[np.ndarray, " layer"]:
    """Mean absolute change of the cosine between states and a direction, by layer.

    Args:
        before: states of the unchanged model.
        after: states of the same prompts while another direction is ablated.
        direction: of any length; a state of length zero has cosine 0.

    Raises:
        InputError: the states differ in shape, or the direction has length zero.
    """
    if before.shape != after.shape:
        raise InputError(f"states of the shapes {before.shape} and {after.shape}; give the same")
    length = np.linalg.norm(direction)
    if not length > 0:
        raise InputError("a direction of length zero; give a nonzero direction")
    one, two = (unit(x.astype(np.float64)) @ (direction / length) for x in (before, after))
    return np.abs(two - one).mean(axis=0)
