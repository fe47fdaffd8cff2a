"""Causes of a loss: intervals of their shares.

The readout is linear in the state, so the true shares follow from the true means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.calibration.settings import Setting, Tally, covered
from experiments.calibration.simulated import SINGLE_12, TWINS, Design, simulated_undone
from interp.causes import COALITIONS, PLAYERS, Change
from interp.causes.change import REMAINDER, ClassMeans
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
    """

    name: str
    gain: float
    angle: float
    offset: float = 0.0

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
        return simulated_undone(Change(base, after, (0,)), READER * along, seed)

    def shares(self) -> dict[str, float]:
        """The true shares."""
        along, across = np.eye(D_MODEL)[:2]
        parts = self.means(along, across)
        known = ClassMeans.of(parts, np.array([self.gain]))
        worths = [
            (parts[0 if REMAINDER in coalition else 2] + known.move(coalition)) @ along
            for coalition in COALITIONS
        ]
        values = shapley_matrix(len(PLAYERS)) @ np.array(worths)
        return dict(zip(PLAYERS, values / (worths[-1] - worths[0]), strict=True))


BOTH = World("gain of .5, rotation of 45°, offset", 0.5, 45.0, -0.1)
SINGLE_40 = Design("40 + 40 prompts", (1,) * 40)


def _share(cause: str, world: World, design: Design) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = [
            world.undone(design, rng).shares(resamples=RESAMPLES).shapley[cause]
            for _ in range(replications)
        ]
        return covered(world.shares()[cause], [(one.low, one.high) for one in found])

    quick = design is SINGLE_12
    setting = f"{design.name}, {world.name}"
    return Setting(f"share of the loss: {cause}", setting, "coverage", run, 200, quick)


SETTINGS = tuple(_share("gain", BOTH, design) for design in (SINGLE_12, SINGLE_40, TWINS))
