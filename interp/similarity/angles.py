r"""Angles and cosines of two directions from noise-free inner products, with intervals.

For :math:`\cos\theta = c/\sqrt{ab}` with the cross-fitted products :math:`a = \langle v,v\rangle`,
:math:`b = \langle w,w\rangle`, :math:`c = \langle v,w\rangle`, the test of an angle is the test of
:math:`c - \cos\theta\sqrt{ab} = 0`. Its variance has two parts. Noise that moves a direction out of
the plane counts with :math:`\sin^2\theta` and vanishes for parallel directions. Noise times noise
remains for parallel directions and alone determines the test of an angle near zero. Intervals with
the variance at the observed angle cover 100% near zero and are twice as long as necessary.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from interp.statistics import (
    Confidence,
    Contrast,
    Estimates,
    InnerProducts,
    Layers,
    Means,
    class_means,
    last_accepted,
)

SQUARED_ROUNDING = 1e-10
"""Squared lengths below this share of the squared length of a direction are rounding errors."""


def joint_means(
    a: Contrast, b: Contrast, vectors: Float[np.ndarray, "vector 4"], *, same_units: bool = False
) -> Means:
    """Weighted sums of the four class means (a +, a -, b +, b -).

    Args:
        a, b: contrasts of the same layers and width.
        vectors: the weight of each class mean in each vector.
        same_units: rows with the same unit in both stay together; otherwise all units differ.
    """
    return class_means(
        np.concatenate([a.states, b.states]),
        np.concatenate([a.classes, b.classes + 2]),
        np.concatenate([a.units, b.units + (0 if same_units else a.units.max() + 1)]),
        vectors,
    )


def exists(
    products: InnerProducts, index: int, confidence: Confidence
) -> tuple[Layers, np.ndarray]:
    """The squared length number ``index`` and whether its lower bound is above zero; else 1."""
    squared = products.value[:, index]
    variance = products.variance(*(0.0,) * index, 1.0)
    there = squared > confidence.two_sided * np.sqrt(variance)
    return np.where(there, squared, 1.0), there


def angle_degrees(
    products: InnerProducts, confidence: Confidence, *, refitted: bool = False
) -> Estimates:
    """Angle in degrees; undefined where either direction does not exist.

    Args:
        products: ⟨v, v⟩, ⟨w, w⟩ and ⟨v, w⟩ as the first three products.
        confidence: level and number of prompts.
        refitted: the directions are not mean differences. Influences on a refitted direction have a
            flatter spectrum than its noise, so noise times noise is estimated too small. For
            parallel directions half of the squared influences estimates it too, because there the
            difference of the directions is only noise. The larger of the two is used.

    Returns:
        The null band is the range of values that two *parallel* directions with this noise give: 0
        up to the one-sided bound. It covers sampling noise only.
    """
    (a, has_a), (b, has_b) = (exists(products, index, confidence) for index in (0, 1))
    scale, ratio = np.sqrt(a * b), np.sqrt(b / a)

    def weights(cosine: Layers) -> tuple[Layers | float, ...]:
        # The derivatives of c - cosine * sqrt(ab) with respect to a, b and c.
        return (-cosine * ratio / 2, -cosine / ratio / 2, 1.0)

    observed = products.value[:, 2] / scale
    clipped = np.clip(observed, -1.0, 1.0)
    # Variance per squared length out of the plane. Where the observed angle is only noise, this is
    # 0/0. Half of the noise on both sides keeps the quotient stable and gave the nominal coverage
    # in simulations (0 times the noise: 1 point less; 1 times the noise: 1 point more).
    lengths = products.plain[:, 0] / a + products.plain[:, 1] / b
    plain = (1 + clipped**2) * lengths / 2 - 2 * clipped * products.plain[:, 2] / scale
    at_observed = weights(clipped)
    turning = products.signal_variance(*at_observed) + products.noise_variance(*at_observed) / 2
    # Zero, up to rounding, only for a direction compared with itself: it does not rotate.
    across = np.maximum((1 - clipped**2 + plain) / 2, SQUARED_ROUNDING)
    out_of_plane = np.maximum(turning, 0.0) / across

    # What noise times noise exceeds its estimate by, for parallel directions.
    excess = np.zeros_like(a)
    if refitted:
        excess = np.maximum(products.signal_variance(*weights(np.sign(clipped))), 0.0) / 2

    def accepts(angle: Layers) -> np.ndarray:
        cosine, squared_sine = np.cos(angle), np.sin(angle) ** 2
        variance = squared_sine * out_of_plane + products.noise_variance(*weights(cosine))
        variance += np.maximum(1.0 - squared_sine / across, 0.0) * excess
        sign = np.where(cosine >= 0, 1.0, -1.0)
        return confidence.below_boundary(
            sign * (observed - cosine), 1 - sign * cosine, np.sqrt(variance) / scale
        )

    value = np.arccos(clipped)
    noise = products.noise_variance(*weights(np.ones_like(a)))
    parallel = confidence.one_sided * np.sqrt(noise + excess)
    return Estimates.where(
        has_a & has_b,
        value=np.degrees(value),
        low=np.degrees(last_accepted(accepts, value, np.zeros_like(value))),
        high=np.degrees(last_accepted(accepts, value, np.full_like(value, np.pi))),
        null_low=np.zeros_like(value),
        null_high=np.degrees(np.arccos(np.clip(1.0 - parallel / scale, -1.0, 1.0))),
    )


def as_cosine(angle: Estimates) -> Estimates:
    """The same estimates as cosines; low and high swap."""
    value, high, low, null_high, null_low = (
        np.cos(np.radians(x))
        for x in (angle.value, angle.low, angle.high, angle.null_low, angle.null_high)
    )
    return Estimates(value, low, high, null_low, null_high, angle.defined)
