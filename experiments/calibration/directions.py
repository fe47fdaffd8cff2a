"""Settings of directions: their rotations, cosines and distances from the true ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from experiments.calibration.settings import Setting, Tally, covered
from experiments.calibration.simulated import (
    FEW,
    FOURS,
    HEAVY_24,
    MIXED,
    PAIRS_12,
    PAIRS_24,
    PAIRS_72,
    SINGLE_12,
    TWINS,
    UNEQUAL,
    Design,
    axes,
    changed,
    contrast_of,
    turned,
)
from interp.directions import (
    Estimator,
    FittedDirections,
    Leace,
    LogisticProbe,
    MeanDifference,
    PairedPrincipalComponent,
    Refits,
    WhitenedMeanDifference,
)
from interp.similarity import rotation
from interp.similarity.cosines import cosine_between
from interp.similarity.pairs import cell_of, refitted_products
from interp.similarity.rotations import QUANTITIES
from interp.statistics import Estimates, error_degrees

DESIGNS = (PAIRS_12, PAIRS_24, SINGLE_12, HEAVY_24, TWINS, FOURS, UNEQUAL, MIXED, FEW)
QUICK = (PAIRS_12, UNEQUAL)
WORLDS = 200
"""Data sets simulated at once; they are the layers of one contrast."""


def in_batches(
    simulate: Callable[[np.random.Generator, int], Estimates], truth: float
) -> Callable[[np.random.Generator, int], Tally]:
    """Coverage of intervals that come in batches of data sets."""

    def run(rng: np.random.Generator, replications: int) -> Tally:
        bounds: list[tuple[float, float]] = []
        while len(bounds) < replications:
            found = simulate(rng, min(WORLDS, replications - len(bounds)))
            # Bisection finds the end of an interval at a boundary to 1e-6.
            low = np.where(found.defined, found.low - 1e-6, np.nan)
            bounds += list(zip(low, found.high + 1e-6, strict=True))
        return covered(truth, bounds)

    return run


def _rotations() -> list[Setting]:
    planted = {"gain": 0.7, "offset": -0.3, "offset_orthogonal": 0.2}

    def simulate(
        design: Design, quantity: str, angle: float, orthogonal: float,
        rng: np.random.Generator, worlds: int,
    ) -> Estimates:  # fmt: skip
        truths = planted | {"offset_orthogonal": orthogonal}
        return rotation(*changed(design, rng, worlds, angle=angle, **truths)).estimates[quantity]

    found = []
    for design in DESIGNS:
        for quantity, angle, orthogonal in (
            *(("angle_degrees", angle, 0.2) for angle in (0.0, 30.0, 90.0)),
            ("gain", 30.0, 0.2),
            ("offset", 30.0, 0.2),
            ("offset_orthogonal", 30.0, 0.2),
            ("offset_orthogonal", 30.0, 0.6),
        ):
            truth = {"angle_degrees": angle, "offset_orthogonal": orthogonal}.get(quantity)
            truth = planted[quantity] if truth is None else truth
            run = in_batches(partial(simulate, design, quantity, angle, orthogonal), truth)
            assert quantity in QUANTITIES
            name = f"rotation: {quantity.replace('_', ' ')}"
            quick = design in QUICK and quantity != "offset" and angle != 90.0
            found.append(
                Setting(name, f"{design.name}, truth {truth:g}", "coverage", run, 600, quick)
            )
    return found


def _cosines() -> list[Setting]:
    def simulate(design: Design, cosine: float, rng: np.random.Generator, worlds: int) -> Estimates:
        along, across, _ = axes(rng, worlds)
        directions = along, turned(along, across, cosine)
        return cosine_between(*(contrast_of(design, rng, r, worlds) for r in directions))

    return [
        Setting(
            "cosine: mean difference", f"{design.name}, truth {cosine:g}", "coverage",
            in_batches(partial(simulate, design, cosine), cosine), 600,
            design in QUICK and cosine == 1,
        )
        for design in (PAIRS_12, SINGLE_12, TWINS, UNEQUAL)
        for cosine in (0.0, 0.5, 1.0)
    ]  # fmt: skip


ESTIMATORS: dict[str, Estimator] = {
    "logistic probe": LogisticProbe(),
    "whitened mean difference": WhitenedMeanDifference(),
    "LEACE": Leace(),
    "component of pairs": PairedPrincipalComponent(),
}


def _refits() -> list[Setting]:
    """Cosines and angles between the expected directions; in isotropic noise these are known."""

    def cosine_of(
        estimator: Estimator, design: Design, cosine: float, rng: np.random.Generator, worlds: int
    ) -> Estimates:
        along, across, _ = axes(rng, worlds)
        parts = [
            Refits.of(estimator, contrast_of(design, rng, LENGTH * r, worlds)).replicates()
            for r in (along, turned(along, across, cosine))
        ]
        return cell_of(*refitted_products(*parts), 0.95, refitted=True).cosine

    def angle_of(
        estimator: Estimator, design: Design, angle: float, rng: np.random.Generator, worlds: int
    ) -> Estimates:
        models = changed(design, rng, worlds, angle=angle, gain=0.7, length=LENGTH)
        fits = [FittedDirections.of(estimator, {"a": contrast}) for contrast in models]
        return rotation(*fits)["a"].angle_degrees

    found = []
    for name, estimator in ESTIMATORS.items():
        paired = name == "component of pairs"
        designs = [
            Design(f"{n} pairs" if paired else f"{n} + {n} prompts", (1,) * n, paired, 1.0)
            for n in (12, 20, 40, 80)
        ]
        others = [] if paired else [
            Design("20 pairs", (1,) * 20, True, 1.0), TWINS,
        ]  # fmt: skip
        for design in (*designs, *others):
            for cosine in (0.0, 0.5, 1.0) if len(design.sizes) < 80 else (1.0,):
                run = in_batches(partial(cosine_of, estimator, design, cosine), cosine)
                setting = f"{design.name}, truth {cosine:g}"
                quick = len(design.sizes) == 20 and design.sizes[0] == 1 and cosine == 1
                quick = quick and not (design.paired and not paired)
                found.append(Setting(f"cosine: {name}", setting, "coverage", run, 300, quick))
        for angle in (0.0, 30.0):
            run = in_batches(
                partial(angle_of, without_reliability(estimator), PAIRS_24, angle), angle
            )
            setting = f"{PAIRS_24.name}, truth {angle:g}"
            found.append(Setting(f"rotation: {name}", setting, "coverage", run, 300))
    return found


LENGTH = 1.0
"""Of the directions of refitted estimators, in typical distances of a row from its mean."""


def without_reliability(estimator: Estimator) -> Estimator:
    """The estimator without the reliabilities, which no row of the table uses."""
    return type(estimator)(splits=1, resamples=0)  # type: ignore[call-arg]


def _errors() -> list[Setting]:
    """Angle between the fitted and the true direction, from the reliability and its interval."""

    def simulate(design: Design, length: float, rng: np.random.Generator, worlds: int) -> Estimates:
        along = axes(rng, worlds)[0]
        contrast = contrast_of(design, rng, length * along, worlds)
        fitted = MeanDifference().fit(
            contrast.states, contrast.classes == 0, contrast.units.tolist()
        )
        cosine = (fitted.unit_direction_ * along).sum(axis=-1)
        truth = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
        value, high, low = (
            error_degrees(bound) - truth
            for bound in (fitted.reliability_, fitted.reliability_low_, fitted.reliability_high_)
        )
        missing = np.full_like(value, np.nan)
        return Estimates(value, low, high, missing, missing, np.isfinite(fitted.reliability_))

    return [
        Setting(
            "angle to the true direction", f"{design.name}, length {length:g}", "coverage",
            in_batches(partial(simulate, design, length), 0.0), 600,
            design in QUICK and length == 1,
        )
        for design in (PAIRS_12, PAIRS_24, PAIRS_72, SINGLE_12, HEAVY_24, TWINS, UNEQUAL)
        for length in (0.3, 1.0, 2.0)
    ]  # fmt: skip


SETTINGS: tuple[Setting, ...] = (*_rotations(), *_cosines(), *_refits(), *_errors())
