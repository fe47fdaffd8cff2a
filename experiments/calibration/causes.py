"""Causes of a loss: intervals of their shares, and how often a cause is named.

The readout is a simple function of the state, so the true shares follow from the true means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.calibration.settings import Setting, Tally, covered
from experiments.calibration.simulated import (
    PAIRS_12,
    SATURATING,
    SINGLE_12,
    STRAIGHT,
    TWINS,
    UNEQUAL,
    Bend,
    Design,
    simulated_undone,
)
from interp.causes import CAUSES, COALITIONS, PLAYERS, Change, decide
from interp.causes.change import REMAINDER, ROUTING, ClassMeans
from interp.causes.undoing import Undone, shapley_matrix
from interp.statistics import Contrast

D_MODEL, LENGTH, READER = 48, 1.5, 8.0
CORRELATION = 0.9
RESAMPLES = 500


@dataclass(frozen=True)
class World:
    """How a direction changed, in units of its length, and how it is read.

    Attributes:
        name: in the table.
        gain: length after over length before.
        angle: of the rotation, in degrees.
        offset: of both classes along the old direction.
        bend: of the readout.
        heard: length of the after-model's reader, over that of the base.
    """

    name: str
    gain: float
    angle: float
    offset: float = 0.0
    bend: Bend = STRAIGHT
    heard: float = 1.0

    def means(self, along: np.ndarray, across: np.ndarray) -> list[np.ndarray]:
        """The true means: positive and negative, before, then after."""
        turn = np.radians(self.angle)
        before = LENGTH * along
        after = self.gain * LENGTH * (np.cos(turn) * along + np.sin(turn) * across)
        middle = self.offset * before
        return [before / 2, -before / 2, middle + after / 2, middle - after / 2]

    def undone(self, design: Design, rng: np.random.Generator) -> Undone:
        """The readouts of one sample of prompts."""
        along, across = np.linalg.qr(rng.normal(size=(D_MODEL, 2)))[0].T
        means = self.means(along, across)
        old, new = design.sides(rng, 1, D_MODEL), design.sides(rng, 1, D_MODEL)
        fresh = np.sqrt(1 - CORRELATION**2)
        later = [CORRELATION * x + fresh * y for x, y in zip(old, new, strict=True)]
        sides = [x + mean for x, mean in zip((*old, *later), means, strict=True)]
        base = Contrast(sides[0], sides[1], groups=design.groups)
        after = Contrast(sides[2], sides[3], groups=design.groups)
        seed = int(rng.integers(2**32))
        change = Change(base, after, (0,))
        return simulated_undone(change, READER * along, seed, self.bend, self.heard)

    def shares(self) -> dict[str, float]:
        """The true shares, with normal noise of the prompts."""
        along, across = np.eye(D_MODEL)[:2]
        parts = self.means(along, across)
        known = ClassMeans.of(parts, np.array([self.gain]))
        at, weights = np.polynomial.hermite_e.hermegauss(60)
        worths = []
        for coalition in COALITIONS:
            state = parts[0 if REMAINDER in coalition else 2] + known.move(coalition)
            reader = READER if ROUTING in coalition else self.heard * READER
            read = self.bend.function(reader * (state[0] + at / np.sqrt(D_MODEL)))
            worths.append(read @ weights / weights.sum())
        values = shapley_matrix(len(PLAYERS)) @ np.array(worths)
        return dict(zip(PLAYERS, values / (worths[-1] - worths[0]), strict=True))


BOTH = World("gain of .5, rotation of 45°, offset", 0.5, 45.0, -0.1)
BENT = World("gain of .5, rotation of 45°, offset, saturating", 0.5, 45.0, -0.1, SATURATING)
SPREAD = World("gain, rotation, offset and routing", 0.7, 40.0, -0.15, heard=0.6)
ROTATED = World("rotation of 70°", 1.0, 70.0)
SHRUNK = World("gain of .3", 0.3, 0.0)
UNHEARD = World("routing of .3", 1.0, 0.0, heard=0.3)
TIED = World("rotation and gain carry half each", 0.5, 60.0)
SINGLE_20, SINGLE_40 = (Design(f"{n} + {n} prompts", (1,) * n) for n in (20, 40))


def _share(cause: str, world: World, design: Design) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = [
            world.undone(design, rng).shares(resamples=RESAMPLES).shapley[cause]
            for _ in range(replications)
        ]
        return covered(world.shares()[cause], [(one.low, one.high) for one in found])

    quick = cause == "gain" and world is BOTH and design is SINGLE_12
    setting = f"{design.name}, {world.name}"
    return Setting(f"share of the loss: {cause}", setting, "coverage", run, 200, quick)


def _named(world: World, design: Design, cause: str | None) -> Setting:
    """How often this cause is named; without one, how often any is, although none has most."""
    causes = CAUSES if cause is None else (cause,)

    def run(rng: np.random.Generator, replications: int) -> Tally:
        named = [
            decide(world.undone(design, rng), resamples=RESAMPLES).cause in causes
            for _ in range(replications)
        ]
        return Tally(sum(named), replications)

    setting = f"{design.name}, {world.name}"
    if cause is None:
        return Setting("a cause is named", setting, "error", run, 300)
    return Setting(f"{cause} is named", setting, "power", run, 100)


SETTINGS = (
    *(
        _share(cause, BOTH, design)
        for cause in ("rotation", "gain", "offset")
        for design in (SINGLE_12, SINGLE_40, TWINS, UNEQUAL)
    ),
    *(_share("remainder", BOTH, design) for design in (SINGLE_12, TWINS)),
    *(_share(cause, BENT, SINGLE_12) for cause in ("rotation", "gain")),
    *(
        _share(cause, SPREAD, design)
        for cause in ("rotation", "gain", "offset", "routing")
        for design in (PAIRS_12, SINGLE_20)
    ),
    *(_named(TIED, design, None) for design in (PAIRS_12, SINGLE_12, TWINS)),
    *(
        _named(world, design, cause)
        for world, cause in ((ROTATED, "rotation"), (SHRUNK, "gain"), (UNHEARD, "routing"))
        for design in (PAIRS_12, SINGLE_20)
    ),
)
