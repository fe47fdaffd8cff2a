r"""Gain and offsets of a mean difference from its inner products before and after a change.

With :math:`r` the mean difference and :math:`c` the middle of the two class means, before (0) and
after (a); see :mod:`interp.similarity.rotations`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from interp.similarity.angles import SQUARED_ROUNDING, exists, joint_means
from interp.statistics import (
    Confidence,
    Contrast,
    Estimates,
    InnerProducts,
    Layers,
    inner_products,
    last_accepted,
)

# Weights of the class means (before +, before -, after +, after -) in r0, ra and ca - c0.
VECTORS = np.array([[1, -1, 0, 0], [0, 0, 1, -1], [-0.5, -0.5, 0.5, 0.5]])
# ⟨r0,r0⟩, ⟨ra,ra⟩, ⟨r0,ra⟩, ⟨ca-c0,r0⟩, ⟨ca-c0,ca-c0⟩
PRODUCTS = ((0, 0), (1, 1), (0, 1), (2, 0), (2, 2))


def gain_of(products: InnerProducts, confidence: Confidence) -> Estimates:
    """‖r_a‖ / ‖r_0‖."""
    a, before = exists(products, 0, confidence)
    _, after = exists(products, 1, confidence)
    b = products.value[:, 1]

    def accepts(gain: Layers) -> np.ndarray:
        bound = confidence.two_sided * np.sqrt(products.variance(-(gain**2), 1.0))
        return np.abs(b - gain**2 * a) <= bound

    value = np.sqrt(np.maximum(b, 0.0) / a)
    low = last_accepted(accepts, value, np.zeros_like(value))
    high = last_accepted(accepts, value, 1e3 * (1 + value))
    unchanged = confidence.two_sided * np.sqrt(products.variance(-1.0, 1.0)) / a
    return Estimates(
        value=np.where(before & after, value, np.nan),
        low=np.where(before, np.where(after, low, 0.0), np.nan),
        high=np.where(before, high, np.nan),
        null_low=np.where(before, np.sqrt(np.maximum(1 - unchanged, 0.0)), np.nan),
        null_high=np.where(before, np.sqrt(1 + unchanged), np.nan),
        defined=before & after,
    )


@dataclass(frozen=True)
class GainByUnit:
    """A gain and how it depends on the prompts.

    Attributes:
        value: NaN where one of the two directions does not exist.
        influence: its change per unit of weight of each unit, in ascending order of its number.
        counted_twice: the part of its variance, from noise times noise, that the squared influences
            hold twice (Efron and Stein 1981).
    """

    value: Layers
    influence: Float[np.ndarray, "layer unit"]
    counted_twice: Layers


def gain_by_unit(before: Contrast, after: Contrast) -> GainByUnit:
    """The gain of the same prompts in two models, with the links of ``before``."""
    means = joint_means(before, after.linked_as(before), VECTORS, same_units=True)
    products = inner_products(means, PRODUCTS[:2])
    confidence = Confidence(0.95, means.effective_n)
    (a, has_a), (b, has_b) = (exists(products, index, confidence) for index in (0, 1))
    gain = np.where(has_a & has_b, np.sqrt(b / a), np.nan)
    scale = 1 / (2 * gain * a)
    influence = products.influence[:, 1] - gain[:, None] ** 2 * products.influence[:, 0]
    noise = products.noise_variance(-(gain**2), 1.0)
    return GainByUnit(gain, influence * scale[:, None], noise * scale**2)


def offset_of(products: InnerProducts, confidence: Confidence) -> Estimates:
    """⟨c_a - c_0, r_0⟩ / ‖r_0‖²."""
    a, defined = exists(products, 0, confidence)
    along = products.value[:, 3]

    def accepts(offset: Layers) -> np.ndarray:
        bound = confidence.two_sided * np.sqrt(products.variance(-offset, 0.0, 0.0, 1.0))
        return np.abs(along - offset * a) <= bound

    value = along / a
    far = 1e3 * (1 + np.abs(value))
    unchanged = confidence.two_sided * np.sqrt(products.variance(0.0, 0.0, 0.0, 1.0)) / a
    return Estimates.where(
        defined,
        value=value,
        low=last_accepted(accepts, value, value - far),
        high=last_accepted(accepts, value, value + far),
        null_low=-unchanged,
        null_high=unchanged,
    )


def offset_orthogonal_of(products: InnerProducts, confidence: Confidence) -> Estimates:
    """Length of the part of c_a - c_0 orthogonal to r_0, divided by ‖r_0‖."""
    a, defined = exists(products, 0, confidence)
    offset = products.value[:, 3] / a
    weights = (offset**2, 0.0, 0.0, -2 * offset, 1.0)  # of ‖(ca - c0) - offset r0‖²
    observed = sum(w * products.value[:, i] for i, w in enumerate(weights)) / a
    plain = sum(w * products.plain[:, i] for i, w in enumerate(weights)) / a
    # As for the angle: signal times noise grows with the squared length; noise times noise stays.
    # The squared length after is compared with the observed share of ⟨r0, r0⟩, which varies too.
    compared = (offset**2 - np.maximum(observed, 0.0), *weights[1:])
    growing = products.signal_variance(*compared) + products.noise_variance(*compared) / 2
    size = np.maximum((np.maximum(observed, 0.0) + plain) / 2, SQUARED_ROUNDING)
    slope = np.maximum(growing, 0.0) / a**2 / size

    def accepts(length: Layers) -> np.ndarray:
        squared = length**2
        noise = products.noise_variance(offset**2 - squared, *weights[1:]) / a**2
        sd = np.sqrt(squared * slope + noise)
        return confidence.below_boundary(squared - observed, squared, sd)

    value = np.sqrt(np.maximum(observed, 0.0))
    unchanged = confidence.one_sided * np.sqrt(products.noise_variance(*weights)) / a
    return Estimates.where(
        defined,
        value=value,
        low=last_accepted(accepts, value, np.zeros_like(value)),
        high=last_accepted(accepts, value, 1e3 * (1 + value)),
        null_low=np.zeros_like(value),
        null_high=np.sqrt(unchanged),
    )
