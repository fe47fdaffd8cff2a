r"""A direction before and after a change of the model: how it turned, grew and shifted.

With :math:`\mu^+, \mu^-` the mean states of the positive and negative prompts,
:math:`r = \mu^+ - \mu^-` and :math:`c = (\mu^+ + \mu^-)/2`, before (0) and after (a):

* angle: between :math:`r^0` and :math:`r^a`;
* gain: :math:`\lVert r^a\rVert / \lVert r^0\rVert`;
* offset: :math:`\langle c^a - c^0, \hat r^0\rangle / \lVert r^0\rVert`; -½ puts the positive
  prompts where the middle was;
* orthogonal offset: the length of the rest of :math:`c^a - c^0`, in the same unit.

All from cross-fitted inner products (:mod:`interp.statistics.crossfit`). Plain angles are wrong in
both directions: noise that both models share pulls them to zero, fresh noise pushes them to 90°.

The null bands say what an unchanged direction would read under this sampling noise. They do not
say what any harmless change of the model would do: for that give arms that were changed otherwise
to :func:`against_controls`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import InputError
from interp.similarity.angles import angle_degrees, as_cosine, exists, joint_means
from interp.statistics import (
    Confidence,
    Contrast,
    Estimates,
    InnerProducts,
    Layers,
    inner_products,
    last_accepted,
    layer_names,
)

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["layer", "quantity", "value", "low", "high", "n", "null_low", "null_high", "defined"]
QUANTITIES = ("angle_degrees", "cosine", "gain", "offset", "offset_orthogonal")

# Weights of the class means (before +, before -, after +, after -) in r0, ra and ca - c0.
VECTORS = np.array([[1, -1, 0, 0], [0, 0, 1, -1], [-0.5, -0.5, 0.5, 0.5]])
# ⟨r0,r0⟩, ⟨ra,ra⟩, ⟨r0,ra⟩, ⟨ca-c0,r0⟩, ⟨ca-c0,ca-c0⟩
PRODUCTS = ((0, 0), (1, 1), (0, 1), (2, 0), (2, 2))


@dataclass(frozen=True)
class Rotation:
    """What happened to one direction, at every layer, with intervals and null bands."""

    layers: tuple[int, ...]
    angle_degrees: Estimates
    cosine: Estimates
    gain: Estimates
    offset: Estimates
    offset_orthogonal: Estimates
    n: int
    """Rows of the smallest of the four groups."""

    @property
    def estimates(self) -> dict[str, Estimates]:
        """By quantity, in the order of :data:`QUANTITIES`."""
        return {name: getattr(self, name) for name in QUANTITIES}

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer and quantity; NaN where ``defined`` is false."""
        import pandas as pd

        tables = [
            pd.DataFrame({"layer": self.layers, "quantity": name, "n": self.n, **vars(estimates)})
            for name, estimates in self.estimates.items()
        ]
        return pd.concat(tables, ignore_index=True)[COLUMNS]


def rotation(
    before: Contrast,
    after: Contrast,
    *,
    same_prompts: bool = True,
    layers: Sequence[int] | None = None,
    level: float = 0.95,
) -> Rotation:
    """Rotation, gain and offset of the mean difference between two models.

    Args:
        before, after: the same contrast in the two models.
        same_prompts: row i is the same prompt in both, so that its noise is shared. With other
            prompts in ``after`` every row stands for itself.
        layers: names of the layers; 0, 1, … by default.
        level: coverage of the intervals.

    Returns:
        Angle, cosine and gain are undefined where the lower bound of a split-half product is not
        above zero (there is no direction before, or none after); the offsets need only the
        direction before. Where only the direction after is missing, the gain keeps its upper
        bound: that is how a direction that vanished shows.

    Raises:
        InputError: shapes or pairs that do not match.
    """
    _check(before, after, same_prompts)
    names = layer_names(layers, before.positive.shape[1])
    paired = replace(after, pairs=before.pairs) if same_prompts else after
    means = joint_means(before, paired, VECTORS, same_units=same_prompts)
    products = inner_products(means, PRODUCTS)
    confidence = Confidence(level, means.n)
    angle = angle_degrees(products, confidence)
    return Rotation(
        layers=names,
        angle_degrees=angle,
        cosine=as_cosine(angle),
        gain=_gain(products, confidence),
        offset=_offset(products, confidence),
        offset_orthogonal=_offset_orthogonal(products, confidence),
        n=means.n,
    )


def against_controls(turned: Rotation, controls: Sequence[Rotation]) -> Rotation:
    """The same rotation with null bands from control changes of the same model.

    Args:
        turned: the change in question.
        controls: the same prompts before and after changes that should not turn the direction: an
            arm trained on benign prompts only, random weight changes of equal norm.

    Returns:
        Null bands that span the intervals of all controls and the sampling null. With few controls
        that is the cautious reading: a direction turned if its interval lies beyond every
        control's. Layers where a control is undefined keep what the others say.

    Raises:
        InputError: no controls, or other layers.
    """
    if not controls:
        raise InputError("no control rotations; give at least one, for instance a benign-only arm")
    if any(control.layers != turned.layers for control in controls):
        raise InputError("the controls were measured at other layers; use the same ones")

    def widened(quantity: str, own: Estimates) -> Estimates:
        others = [control.estimates[quantity] for control in controls]
        return replace(
            own,
            null_low=np.fmin.reduce([own.null_low, *(other.low for other in others)]),
            null_high=np.fmax.reduce([own.null_high, *(other.high for other in others)]),
        )

    bands: dict[str, Any] = {name: widened(name, own) for name, own in turned.estimates.items()}
    return replace(turned, **bands)


def _gain(products: InnerProducts, confidence: Confidence) -> Estimates:
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


def _offset(products: InnerProducts, confidence: Confidence) -> Estimates:
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


def _offset_orthogonal(products: InnerProducts, confidence: Confidence) -> Estimates:
    a, defined = exists(products, 0, confidence)
    offset = products.value[:, 3] / a
    weights = (offset**2, 0.0, 0.0, -2 * offset, 1.0)  # of ‖(ca - c0) - offset r0‖²
    observed = sum(w * products.value[:, i] for i, w in enumerate(weights)) / a
    plain = sum(w * products.plain[:, i] for i, w in enumerate(weights)) / a
    # As for the angle: signal times noise grows with the squared length, noise times noise stays.
    growing = products.signal_variance(*weights) + products.noise_variance(*weights) / 2
    slope = np.maximum(growing, 0.0) / a**2 / ((np.maximum(observed, 0.0) + plain) / 2)

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


def _check(before: Contrast, after: Contrast, same_prompts: bool) -> None:
    if before.positive.shape[1:] != after.positive.shape[1:]:
        raise InputError(
            f"(layer, d_model) is {before.positive.shape[1:]} before and "
            f"{after.positive.shape[1:]} after; compare models of the same architecture"
        )
    if not same_prompts:
        return
    if (len(before.positive), len(before.negative)) != (len(after.positive), len(after.negative)):
        raise InputError(
            f"{len(before.positive)} + {len(before.negative)} prompts before and "
            f"{len(after.positive)} + {len(after.negative)} after; give the same prompts in the "
            "same order, or same_prompts=False"
        )
    if after.pairs is not None and not np.array_equal(before.units, after.units):
        raise InputError("the same prompts are paired otherwise before and after; pair them alike")
