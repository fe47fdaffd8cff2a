"""Simulated states with known truths: directions, changes of a direction, and their causes."""

from __future__ import annotations

import numpy as np

from interp.causes import COALITIONS, MOVES, Change, Undone
from interp.causes.change import REMAINDER
from interp.statistics import Contrast


def noisy_change(
    rng: np.random.Generator,
    *,
    gain: float,
    angle: float,
    d_model: int = 512,
    n: int = 24,
    correlation: float = 0.95,
) -> tuple[Change, np.ndarray, dict[str, float]]:
    """A direction as long as the noise of one prompt, before and after a change of the model.

    Args:
        rng: random number generator.
        gain: length after over length before.
        angle: of the rotation, in degrees.
        d_model: width.
        n: pairs.
        correlation: of a prompt's noise before and after.

    Returns:
        The change, the weights of a linear readout along the old direction, and the true shares of
        rotation and gain in the loss of this readout.
    """
    along, across = np.linalg.qr(rng.normal(size=(d_model, 2)))[0].T
    cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    turned = gain * (cosine * along + sine * across)
    noise = rng.normal(size=(2, 2, n, 1, d_model)) / np.sqrt(d_model)
    later = correlation * noise[0] + np.sqrt(1 - correlation**2) * noise[1]
    pairs = np.repeat(np.arange(n)[:, None], 2, axis=1)
    base = Contrast(noise[0, 0] + along / 2, noise[0, 1] - along / 2, pairs)
    after = Contrast(later[0] + turned / 2, later[1] - turned / 2, pairs)
    loss = 1 - gain * cosine
    shares = {
        "rotation": ((gain - gain * cosine) + (1 - cosine)) / 2 / loss,
        "gain": ((cosine - gain * cosine) + (1 - gain)) / 2 / loss,
    }
    return Change(base, after, (0,)), 8.0 * along, shares


def linear_undone(change: Change, reader: np.ndarray, seed: int) -> Undone:
    """Readouts of every coalition where the layers after the states are a linear readout."""
    sides = change.halves(seed)
    by_half = [change.means(0, sides != half) for half in (0, 1)]
    means = [by_half[side] for side in sides[: len(change.base.positive)]]
    states = {"base": change.base.positive[:, 0], "after": change.after.positive[:, 0]}
    values = []
    for coalition in COALITIONS:
        start = "base" if REMAINDER in coalition else "after"
        own = MOVES if start == "base" else ()
        moves = np.stack([m.with_base(coalition) - m.with_base(own) for m in means])
        values.append((states[start] + moves) @ reader)
    return Undone(0, np.stack(values))
