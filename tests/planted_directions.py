"""Activations with a planted rotation, gain and offset, for tests and for coverage tables.

The noise is anisotropic, eigenvalues 1/i: 64 dimensions count as about fourteen. The signal-to-
noise ratio is ‖r‖ / sqrt(trace of the noise covariance): the length of the direction over the
typical distance of one prompt from its class mean. Per coordinate that is ‖r‖ = SNR · 8 standard
deviations here. Matched prompts share half of their noise variance; a prompt's noise before and
after the change is correlated .8 where the prompts are the same; the gain applies to the noise too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.statistics import Contrast

D_MODEL = 64
PAIR_CORRELATION = 0.5
CHANGE_CORRELATION = 0.8


@dataclass(frozen=True)
class Planted:
    """What is planted: angle, gain, offset along the direction and across it, in its length."""

    angle_degrees: float = 0.0
    gain: float = 1.0
    offset: float = 0.0
    offset_orthogonal: float = 0.0


def planted_change(
    planted: Planted,
    *,
    snr: float,
    n: int,
    same_prompts: bool,
    worlds: int,
    seed: int,
    paired: bool = True,
) -> tuple[Contrast, Contrast]:
    """Before and after, one independent world per layer."""
    rng = np.random.default_rng(seed)
    spectrum = 1.0 / np.arange(1, D_MODEL + 1)
    sd = np.sqrt(spectrum / spectrum.sum())
    along, perpendicular, across = _orthonormal(rng, worlds)
    angle = np.radians(planted.angle_degrees)
    before = snr * along
    after = planted.gain * snr * (np.cos(angle) * along + np.sin(angle) * perpendicular)
    shift = snr * (planted.offset * along + planted.offset_orthogonal * across)

    def noise() -> Float[np.ndarray, "prompt layer d_model"]:
        return rng.normal(size=(n, worlds, D_MODEL)) * sd

    def matched_pair() -> tuple[np.ndarray, np.ndarray]:
        if not paired:
            return noise(), noise()
        shared = np.sqrt(PAIR_CORRELATION) * noise()
        fresh = np.sqrt(1 - PAIR_CORRELATION)
        return shared + fresh * noise(), shared + fresh * noise()

    positive, negative = matched_pair()
    changed_positive, changed_negative = matched_pair()
    if same_prompts:
        fresh = np.sqrt(1 - CHANGE_CORRELATION**2)
        changed_positive = CHANGE_CORRELATION * positive + fresh * changed_positive
        changed_negative = CHANGE_CORRELATION * negative + fresh * changed_negative
    pairs = np.repeat(np.arange(n)[:, None], 2, axis=1) if paired else None
    return (
        Contrast(positive + before / 2, negative - before / 2, pairs),
        Contrast(
            planted.gain * changed_positive + after / 2 + shift,
            planted.gain * changed_negative - after / 2 + shift,
            pairs,
        ),
    )


def _orthonormal(rng: np.random.Generator, worlds: int) -> Float[np.ndarray, "three world d_model"]:
    basis, _ = np.linalg.qr(rng.normal(size=(worlds, D_MODEL, 3)))
    return basis.transpose(2, 0, 1)
