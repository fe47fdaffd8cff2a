"""Patching: intervals of the share of a gap that a cell closes, and the test against controls."""

from __future__ import annotations

import numpy as np

from experiments.calibration.settings import Setting, Tally, covered
from interp.patching import Cell, Effects

CELLS = tuple(Cell(layer, "residual") for layer in range(6))
SHARES = np.linspace(0.0, 1.0, len(CELLS))
GAP = 4.0
CONTROLS = 100  # five of 101 equally likely p-values are below .05


def _readouts(rng: np.random.Generator, n: int, copies: int, shape: float) -> Effects:
    """Cells that close shares of every prompt's gap; gaps are gamma distributed, and skewed."""
    groups = n // copies

    def alike(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, copies, axis=-1)

    gap = alike(rng.gamma(shape, GAP / shape, groups))
    closed = SHARES[:, None] * gap + alike(rng.normal(size=(len(CELLS), groups)))
    target = alike(rng.normal(size=groups))
    return Effects(CELLS, target + closed, target, target + gap)


def _fraction(cell: int, n: int, *, copies: int = 1, shape: float = 4.0) -> Setting:
    def run(rng: np.random.Generator, replications: int) -> Tally:
        groups = np.repeat(np.arange(n // copies), copies).tolist()
        found = []
        for _ in range(replications):
            effects = _readouts(rng, n, copies, shape)
            row = effects.to_dataframe(resamples=500, groups=groups).iloc[cell]
            found.append((row["fraction_low"], row["fraction_high"]))
        return covered(float(SHARES[cell]), found)

    grouped = f" in groups of {copies}" if copies > 1 else ""
    skewed = ", skewed" if shape < 1 else ""
    setting = f"n {n}{grouped}{skewed}, truth {SHARES[cell]:.0%}"
    return Setting(
        "patching: share of the gap", setting, "coverage", run, 500, (n, cell) == (12, 2)
    )


def _outside(n: int, *, alike: float) -> Setting:
    """Whether any cell is significant although all edits are random."""

    def run(rng: np.random.Generator, replications: int) -> Tally:
        found = 0
        for _ in range(replications):
            common = rng.normal(size=(CONTROLS + 1, 1, 1))
            size = np.geomspace(0.3, 3, len(CELLS))[:, None]
            own = rng.normal(size=(CONTROLS + 1, len(CELLS), 1))
            drawn = size * (np.sqrt(alike) * common + np.sqrt(1 - alike) * own)
            drawn = drawn + 0.3 * rng.normal(size=(CONTROLS + 1, len(CELLS), n))
            target = rng.normal(size=n)
            moved = target + drawn
            effects = Effects(CELLS, moved[0], target, target + GAP, controls=moved[1:])
            table = effects.to_dataframe(resamples=2)
            found += bool((table["p_family_wise"] < 0.05).any())
        return Tally(found, replications)

    setting = f"{len(CELLS)} cells, n {n}, correlation of the cells {alike:g}"
    return Setting("patching: any cell stands out", setting, "error", run, 500)


SETTINGS = (
    *(_fraction(cell, n) for n in (12, 24) for cell in (0, 2, 5)),
    *(_fraction(2, n, shape=0.5) for n in (12, 24)),
    _fraction(2, 48, copies=4),
    *(_outside(24, alike=alike) for alike in (0.0, 0.8)),
)
