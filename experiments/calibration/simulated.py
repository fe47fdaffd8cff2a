"""Simulated states with known truths: directions, changes of a direction, and their causes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from interp.causes import COALITIONS, Change, Undone
from interp.causes.change import REMAINDER, ROUTING
from interp.causes.sampling import response_of
from interp.statistics import Contrast

D_MODEL = 48


@dataclass(frozen=True)
class Design:
    """Which rows a contrast has, on each side, and how they depend on one another.

    Attributes:
        name: in the table.
        sizes: number of rows of every unit.
        paired: a unit holds rows of both sides, which share half of their noise.
        shared: share of the noise variance that all rows of a unit and side have in common.
        tails: degrees of freedom of the noise (Student's t); 0 for normal noise.
    """

    name: str
    sizes: tuple[int, ...]
    paired: bool = False
    shared: float = 0.0
    tails: int = 0

    def sides(
        self, rng: np.random.Generator, worlds: int, d_model: int = D_MODEL
    ) -> tuple[np.ndarray, np.ndarray]:
        """Noise of positive and negative rows, (row, world, d_model), with mean square length 1."""
        units = np.repeat(np.arange(len(self.sizes)), self.sizes)

        def noise(count: int) -> np.ndarray:
            size = (count, worlds, d_model)
            if self.tails:
                scale = np.sqrt((self.tails - 2) / self.tails)
                return rng.standard_t(self.tails, size=size) * scale
            return rng.normal(size=size)

        def side(common: np.ndarray) -> np.ndarray:
            of_units = noise(len(self.sizes))
            if self.paired:
                of_units = np.sqrt(0.5) * (common + of_units)
            own = noise(len(units)) if self.shared < 1 else np.zeros(())
            rows = np.sqrt(self.shared) * of_units[units] + np.sqrt(1 - self.shared) * own
            return np.asarray(rows / np.sqrt(d_model))

        common = noise(len(self.sizes)) if self.paired else np.zeros(())
        return side(common), side(common)

    @property
    def groups(self) -> np.ndarray:
        """Group of each row, positive rows first."""
        units = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return np.concatenate([units, units + (0 if self.paired else len(self.sizes))])


PAIRS_12 = Design("12 pairs", (1,) * 12, paired=True, shared=1.0)
PAIRS_24 = Design("24 pairs", (1,) * 24, paired=True, shared=1.0)
PAIRS_72 = Design("72 pairs", (1,) * 72, paired=True, shared=1.0)
SINGLE_12 = Design("12 + 12 prompts", (1,) * 12)
HEAVY_24 = Design("24 + 24 prompts, heavy tails", (1,) * 24, tails=4)
TWINS = Design("20 + 20 groups of 2", (2,) * 20, shared=0.5)
FOURS = Design("10 + 10 groups of 4", (4,) * 10, shared=0.5)
UNEQUAL = Design("12 + 12 groups of 1 to 8", (1, 8, 3, 2, 5, 1, 4, 8, 6, 1, 7, 2), shared=0.5)
MIXED = Design("12 groups of 1 to 8 pairs", UNEQUAL.sizes, paired=True, shared=0.5)
FEW = Design("5 + 5 groups of 8", (8,) * 5, shared=0.5)
COPIES = Design("12 + 12 groups of 2 near-duplicates", (2,) * 12, shared=0.9)


def axes(rng: np.random.Generator, worlds: int, d_model: int = D_MODEL) -> np.ndarray:
    """Three orthonormal directions per world, (three, world, d_model)."""
    return np.linalg.qr(rng.normal(size=(worlds, d_model, 3)))[0].transpose(2, 0, 1)


def turned(along: np.ndarray, across: np.ndarray, cosine: float) -> np.ndarray:
    """Unit vectors with this cosine to ``along``."""
    return np.asarray(cosine * along + np.sqrt(1 - cosine**2) * across)


def contrast_of(
    design: Design, rng: np.random.Generator, direction: np.ndarray | float, worlds: int
) -> Contrast:
    """A contrast with this difference of means, one independent world per layer."""
    positive, negative = design.sides(rng, worlds)
    return Contrast(positive + direction / 2, negative - direction / 2, groups=design.groups)


def changed(
    design: Design,
    rng: np.random.Generator,
    worlds: int,
    *,
    angle: float,
    gain: float = 1.0,
    offset: float = 0.0,
    offset_orthogonal: float = 0.0,
    length: float = 1.5,
    correlation: float = 0.8,
) -> tuple[Contrast, Contrast]:
    """The same prompts before and after a change of the model.

    Args:
        design: of the rows.
        rng: random number generator.
        worlds: independent data sets, as layers.
        angle: of the rotation, in degrees.
        gain: length after over length before.
        offset, offset_orthogonal: shifts of all rows, in lengths of the direction.
        length: of the direction, in typical distances of a row from its mean.
        correlation: of a row's noise before and after.
    """
    along, across, other = axes(rng, worlds)
    before = length * along
    after = gain * length * turned(along, across, float(np.cos(np.radians(angle))))
    shift = length * (offset * along + offset_orthogonal * other)
    old, new = design.sides(rng, worlds), design.sides(rng, worlds)
    fresh = np.sqrt(1 - correlation**2)
    later = [gain * (correlation * x + fresh * y) + shift for x, y in zip(old, new, strict=True)]
    return (
        Contrast(old[0] + before / 2, old[1] - before / 2, groups=design.groups),
        Contrast(later[0] + after / 2, later[1] - after / 2, groups=design.groups),
    )


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


@dataclass(frozen=True)
class Bend:
    """What a simulated readout makes of the product of a state and its reader."""

    function: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]


STRAIGHT = Bend(np.asarray, np.ones_like)
SATURATING = Bend(lambda t: 4 * np.tanh(t / 4) + 0.3 * t, lambda t: 1 / np.cosh(t / 4) ** 2 + 0.3)


def simulated_undone(
    change: Change, reader: np.ndarray, seed: int, bend: Bend = STRAIGHT, heard: float = 1.0
) -> Undone:
    """Readouts of every coalition where the layers after the states are a simple function.

    Args:
        change: the states.
        reader: of the base's later layers.
        seed: of the halves.
        bend: what the later layers make of the product of state and reader.
        heard: length of the after-model's reader, over that of the base.
    """
    sides = change.halves(seed)
    by_half = [change.means(0, sides != half) for half in (0, 1)]
    own = sides[: len(change.base.positive)]
    states = {"base": change.base.positive[:, 0], "after": change.after.positive[:, 0]}
    values, gradients = [], []
    for coalition in COALITIONS:
        moves = np.stack([means.move(coalition) for means in by_half])[own]
        by = reader if ROUTING in coalition else heard * reader
        read = (states["base" if REMAINDER in coalition else "after"] + moves) @ by
        values.append(bend.function(read))
        slope = [bend.slope(read)[own == half].sum() / len(own) for half in (0, 1)]
        gradients.append(np.outer(slope, by))
    response = response_of(change, 0, sides, np.stack(gradients), COALITIONS)
    return Undone(0, np.stack(values), response=response)
