r"""A direction before and after a change of the model: how it rotated, grew and shifted.

With :math:`\mu^+, \mu^-` the mean states of the positive and negative prompts,
:math:`r = \mu^+ - \mu^-` and :math:`c = (\mu^+ + \mu^-)/2`, before (0) and after (a):

* angle: between :math:`r^0` and :math:`r^a`;
* gain: :math:`\lVert r^a\rVert / \lVert r^0\rVert`;
* offset: :math:`\langle c^a - c^0, \hat r^0\rangle / \lVert r^0\rVert`; -½ moves the positive
  prompts to the former middle;
* orthogonal offset: the length of the part of :math:`c^a - c^0` orthogonal to :math:`r^0`, in the
  same unit.

All come from cross-fitted inner products (:mod:`interp.statistics.crossfit`). For an estimator
other than the mean difference, the angle is between the *expected* directions: the direction before
comes from one half of the prompts and the direction after from the other half
(:mod:`interp.directions.refits`). Gain and offsets exist for mean differences only, because a
probe's length is log-odds per unit of the state.

Naive angles are biased by sampling noise: noise that both models share reduces them towards 0°, and
independent noise moves them towards 90°.

An angle is small or large next to the angle between two *ways* to extract the same direction from
one model: at another token, or against other negative prompts. ``ways`` puts such angles next to
it, as columns ``by_…`` of its table.

The null bands show the values of an unchanged direction under this sampling noise. They do not
show the effect of a harmless change of the model. For that, pass arms with other changes to
:func:`against_controls`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from interp.directions import Estimator, FittedDirections, MeanDifference, Refits, estimator_title
from interp.errors import InputError
from interp.similarity.angles import angle_degrees, as_cosine, joint_means
from interp.similarity.gains import PRODUCTS, VECTORS, gain_of, offset_of, offset_orthogonal_of
from interp.similarity.pairs import refitted_products
from interp.statistics import Confidence, Contrast, Estimates, inner_products, layer_names

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COLUMNS = ["layer", "quantity", "value", "low", "high", "n", "null_low", "null_high", "defined"]
QUANTITIES = ("angle_degrees", "cosine", "gain", "offset", "offset_orthogonal")


@dataclass(frozen=True)
class Rotation:
    """The rotation, gain and offset of one direction at every layer, with intervals and nulls."""

    layers: tuple[int, ...]
    angle_degrees: Estimates
    cosine: Estimates
    gain: Estimates
    offset: Estimates
    offset_orthogonal: Estimates
    n: int
    """Number of separate prompts (units) in the smallest of the four groups."""
    undefined: str = ""
    """The reason why gain and offsets are undefined at all layers; otherwise empty."""
    ways: Mapping[str, Estimates] = field(default_factory=dict)
    """By name, the angle in degrees between two ways to extract the direction from one model."""

    def __repr__(self) -> str:
        pairs = zip(self.layers, self.angle_degrees.value, strict=True)
        angles = {layer: angle for layer, angle in pairs if angle == angle}
        if not angles:
            return f"Rotation: undefined in all {len(self.layers)} layers (n = {self.n})"
        most = max(angles, key=lambda layer: angles[layer])
        return (
            f"Rotation: {min(angles.values()):.0f}° to {angles[most]:.0f}° (layer {most}) in "
            f"{len(angles)} of {len(self.layers)} layers (n = {self.n}); see to_dataframe()"
        )

    @property
    def estimates(self) -> dict[str, Estimates]:
        """The estimates by quantity, in the order of :data:`QUANTITIES`."""
        return {name: getattr(self, name) for name in QUANTITIES}

    def to_dataframe(self) -> pd.DataFrame:
        """One row per layer and quantity; NaN where ``defined`` is false.

        Each of ``ways`` is a column ``by_NAME`` of the rows of angles.
        """
        import pandas as pd

        tables = [
            pd.DataFrame({"layer": self.layers, "quantity": name, "n": self.n, **vars(estimates)})
            for name, estimates in self.estimates.items()
        ]
        table = pd.concat(tables, ignore_index=True)[COLUMNS]
        for way, angle in self.ways.items():
            by_layer = dict(zip(self.layers, angle.value, strict=True))
            is_angle = table["quantity"] == "angle_degrees"
            table[f"by_{way}"] = table["layer"].map(by_layer).where(is_angle)
        return table


@dataclass(frozen=True)
class Rotations(Mapping[str, Rotation]):
    """The rotations of several labels' directions, by label."""

    of_labels: Mapping[str, Rotation]

    def __repr__(self) -> str:
        return "\n".join(f"{label}: {rotation}" for label, rotation in self.items())

    def __getitem__(self, label: str) -> Rotation:
        """One label's rotation.

        Raises:
            InputError: an unknown label.
        """
        if label not in self.of_labels:
            raise InputError(f"no rotation of {label!r}; there are {', '.join(self.of_labels)}")
        return self.of_labels[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self.of_labels)

    def __len__(self) -> int:
        return len(self.of_labels)

    def __contains__(self, label: object) -> bool:
        return label in self.of_labels

    def against(self, controls: Sequence[Rotations]) -> Rotations:
        """The same rotations with null bands from control changes; see :func:`against_controls`.

        Args:
            controls: of the same labels.

        Raises:
            InputError: no controls, or controls with different labels or layers.
        """
        return Rotations(
            {
                label: against_controls(one, [control[label] for control in controls])
                for label, one in self.items()
            }
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per label, layer and quantity; NaN where ``defined`` is false."""
        import pandas as pd

        tables = [found.to_dataframe().assign(label=label) for label, found in self.items()]
        stacked = pd.concat(tables, ignore_index=True)
        ways = [name for name in stacked if name not in ("label", *COLUMNS)]
        return stacked[["label", *COLUMNS, *ways]]

    def plot(self, quantity: str = "angle_degrees", *, interactive: bool = False) -> Figure | Any:
        """Draw one panel per label: the quantity over layers, with the null band.

        Args:
            quantity: one of :data:`QUANTITIES`.
            interactive: return a Plotly figure with a slider over the labels.

        Raises:
            InputError: an unknown quantity, or Plotly is not installed.
        """
        from interp.figures import interactive_lines, rotation_by_layer_figure

        if not interactive or quantity not in QUANTITIES:
            return rotation_by_layer_figure(self, quantity)
        table = self.to_dataframe()
        rows = table[table["quantity"] == quantity]
        return interactive_lines(rows, by="label", measure=quantity.replace("_", " "))


@overload
def rotation(
    before: FittedDirections,
    after: FittedDirections,
    *,
    same_prompts: bool = True,
    layers: Sequence[int] | None = None,
    level: float = 0.95,
    ways: Mapping[str, Rotations] | None = None,
) -> Rotations: ...


@overload
def rotation(
    before: Contrast,
    after: Contrast,
    *,
    same_prompts: bool = True,
    layers: Sequence[int] | None = None,
    level: float = 0.95,
) -> Rotation: ...


def rotation(
    before: Contrast | FittedDirections,
    after: Contrast | FittedDirections,
    *,
    same_prompts: bool = True,
    layers: Sequence[int] | None = None,
    level: float = 0.95,
    ways: Mapping[str, Rotations] | None = None,
) -> Rotation | Rotations:
    """How directions rotated between two models; for mean differences also gain and offset.

    Args:
        before, after: fitted directions of the same estimator and labels in the two models; or one
            contrast in both, compared by its mean difference.
        same_prompts: row i is the same prompt in both, so both share its noise. If False, every row
            of ``after`` is a separate prompt.
        layers: names of the layers; those of ``before``, or 0, 1, … by default.
        level: coverage of the intervals.
        ways: for fitted directions, by name: rotations of the same labels and layers between two
            ways to extract them from one model, for the columns ``by_…`` of the table
            (``sp.extractions``).

    Returns:
        One rotation for a contrast, or one per label for fitted directions. Angle, cosine and gain
        are undefined where the lower bound of a split-half product is not above zero (the direction
        before or after does not exist). The offsets need only the direction before. Where only the
        direction after does not exist, the gain keeps its upper bound, which shows that the
        direction vanished. Gain and offsets are undefined for estimators other than the mean
        difference.

    Raises:
        InputError: shapes or pairs do not match, or estimators, labels or layers differ.

    Example:
        >>> after_dirs = sp.fit_directions(sp.collect(after, prompts), prompts, sp.MeanDifference())
        >>> rotations = sp.rotation(dirs, after_dirs)
        >>> rotations["safety"].angle_degrees.value.shape
        (5,)
        >>> figure = rotations.plot()
    """
    if isinstance(before, Contrast) and isinstance(after, Contrast):
        if ways:
            raise InputError("ways are by label; give fitted directions before and after")
        return _of_mean_difference(before, after, same_prompts, layers, level)
    if not (isinstance(before, FittedDirections) and isinstance(after, FittedDirections)):
        raise InputError(
            f"a rotation from {type(before).__name__} to {type(after).__name__}; give fitted "
            "directions before and after, or a contrast before and after (vectors from disk lack "
            "the prompts that the noise correction needs)"
        )
    _check_same_fits(before, after)
    names = before.layers if layers is None else layers
    linear = type(before.estimator) is MeanDifference
    of_labels = {}
    for label, contrast in before.contrasts.items():
        pair = (contrast, after.contrasts[label])
        change = (
            _of_mean_difference(*pair, same_prompts, names, level)
            if linear
            else _of_refits(before.estimator, *pair, same_prompts, names, level)
        )
        of_labels[label] = _with_ways(change, label, ways or {})
    return Rotations(of_labels)


def _with_ways(change: Rotation, label: str, ways: Mapping[str, Rotations]) -> Rotation:
    """The rotation with the label's angle of every way that has the label."""
    found = {name: of_labels[label] for name, of_labels in ways.items() if label in of_labels}
    for name, way in found.items():
        if way.layers != change.layers:
            raise InputError(
                f"the layers of the way {name} are {list(way.layers)}, those of the rotation "
                f"{list(change.layers)}; give the same ones"
            )
    return replace(change, ways={name: way.angle_degrees for name, way in found.items()})


def _of_refits(
    estimator: Estimator,
    before: Contrast,
    after: Contrast,
    same_prompts: bool,
    layers: Sequence[int],
    level: float,
) -> Rotation:
    paired = _paired(before, after, same_prompts)
    parts = [Refits.of(estimator, side).replicates() for side in (before, paired)]
    products, effective = refitted_products(parts[0], parts[1], same_units=same_prompts)
    angle = angle_degrees(products, Confidence(level, effective), refitted=True)
    no_interval = getattr(estimator, "no_interval", "")
    if no_interval:
        angle = angle.without_interval()
    missing, title = np.full(angle.value.shape, np.nan), estimator_title(estimator)
    undefined = replace(angle.without_interval(), value=missing, defined=missing > 0)
    return Rotation(
        layers=layer_names(layers, len(missing)),
        angle_degrees=angle,
        cosine=as_cosine(angle),
        gain=undefined,
        offset=undefined,
        offset_orthogonal=undefined,
        n=min(part.n for part in parts),
        undefined=f"gain and offsets exist for mean differences, not for a {title}"
        + (f"; angles have no interval: {no_interval}" if no_interval else ""),
    )


def _of_mean_difference(
    before: Contrast,
    after: Contrast,
    same_prompts: bool,
    layers: Sequence[int] | None,
    level: float,
) -> Rotation:
    paired = _paired(before, after, same_prompts)
    names = layer_names(layers, before.positive.shape[1])
    means = joint_means(before, paired, VECTORS, same_units=same_prompts)
    products = inner_products(means, PRODUCTS)
    confidence = Confidence(level, means.effective_n)
    angle = angle_degrees(products, confidence)
    return Rotation(
        layers=names,
        angle_degrees=angle,
        cosine=as_cosine(angle),
        gain=gain_of(products, confidence),
        offset=offset_of(products, confidence),
        offset_orthogonal=offset_orthogonal_of(products, confidence),
        n=min(before.n, paired.n),
    )


def against_controls(change: Rotation, controls: Sequence[Rotation]) -> Rotation:
    """The same rotation with null bands from control changes of the same model.

    Args:
        change: the rotation to test.
        controls: rotations of the same prompts by changes that should not rotate the direction, for
            example an arm trained on benign prompts only, or random weight changes of equal norm.

    Returns:
        Null bands that span the intervals of all controls and the sampling null. With few controls
        this is conservative: a direction rotated if its interval lies outside the interval of every
        control. Where a control is undefined at a layer, the others define the band.

    Raises:
        InputError: no controls, or controls with different layers.
    """
    if not controls:
        raise InputError("no control rotations; give at least one, for instance a benign-only arm")
    if any(control.layers != change.layers for control in controls):
        raise InputError("the controls were measured at other layers; use the same ones")

    def widened(quantity: str, own: Estimates) -> Estimates:
        others = [control.estimates[quantity] for control in controls]
        return replace(
            own,
            null_low=np.fmin.reduce([own.null_low, *(other.low for other in others)]),
            null_high=np.fmax.reduce([own.null_high, *(other.high for other in others)]),
        )

    bands: dict[str, Any] = {name: widened(name, own) for name, own in change.estimates.items()}
    return replace(change, **bands)


def _check_same_fits(before: FittedDirections, after: FittedDirections) -> None:
    if type(before.estimator) is not type(after.estimator) or (
        is_dataclass(before.estimator) and before.estimator != after.estimator
    ):
        raise InputError(
            f"directions by {before.estimator!r} before and by {after.estimator!r} after; fit both "
            "by the same estimator"
        )
    for name in ("labels", "layers"):
        here, there = getattr(before, name), getattr(after, name)
        if set(here) != set(there) or (name == "layers" and here != there):
            raise InputError(
                f"{name} {list(here)} before and {list(there)} after; fit the same ones"
            )


def _paired(before: Contrast, after: Contrast, same_prompts: bool) -> Contrast:
    """``after``, with the links of ``before`` if the prompts are the same."""
    if before.positive.shape[1:] != after.positive.shape[1:]:
        raise InputError(
            f"(layer, d_model) is {before.positive.shape[1:]} before and "
            f"{after.positive.shape[1:]} after; compare models of the same architecture"
        )
    if not same_prompts:
        return after
    if (len(before.positive), len(before.negative)) != (len(after.positive), len(after.negative)):
        raise InputError(
            f"{len(before.positive)} + {len(before.negative)} prompts before and "
            f"{len(after.positive)} + {len(after.negative)} after; give the same prompts in the "
            "same order, or same_prompts=False"
        )
    if len(np.unique(after.units)) < len(after.units) and not np.array_equal(
        before.units, after.units
    ):
        raise InputError(
            "the pairs or groups of prompts differ before and after; use the same in both"
        )
    return after.linked_as(before)
