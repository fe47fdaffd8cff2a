"""Settings of maps between labels: intervals of overlaps, and tests on unrelated directions."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import numpy as np

from experiments.calibration.directions import ESTIMATORS, in_batches, without_reliability
from experiments.calibration.settings import Setting, Tally, rejected
from experiments.calibration.simulated import (
    COPIES,
    MIXED,
    PAIRS_12,
    PAIRS_24,
    SINGLE_12,
    TWINS,
    UNEQUAL,
    Design,
    axes,
    contrast_of,
    turned,
)
from interp.directions import ContrastSubspace, Estimator, FittedDirections, MeanDifference
from interp.similarity import SimilarityMap, cosine_map, overlap_map
from interp.similarity.subspaces import subspace_overlap
from interp.statistics import Contrast, Estimates

Compare = Callable[[dict[str, Contrast], int], SimilarityMap]
PERMUTATIONS = 101  # five of as many equally likely p-values are below .05


def _overlaps() -> list[Setting]:
    """Overlap of two planes with one common direction; the truth is the mean over samples."""

    def drawn(design: Design, rng: np.random.Generator, worlds: int) -> dict[str, Contrast]:
        along, across, _ = axes(rng, worlds)
        directions = {"a": 2 * along, "b": 2 * turned(along, across, 0.7)}
        return {name: contrast_of(design, rng, r, worlds) for name, r in directions.items()}

    def simulate(design: Design, rng: np.random.Generator, worlds: int) -> Estimates:
        found = overlap_map(drawn(design, rng, worlds), permutations=20, resamples=50)
        value, low, high = (bound[:, 0, 1] for bound in (found.value, found.low, found.high))
        missing = np.full_like(value, np.nan)
        return Estimates(value, low, high, missing, missing, np.isfinite(value))

    def expected(design: Design) -> float:
        plain = ContrastSubspace(splits=1, resamples=0)
        fits = [
            deepcopy(plain).fit(one.states, one.classes == 0, one.units.tolist()).basis_
            for one in drawn(design, np.random.default_rng(1), 1000).values()
        ]
        return float(np.mean([subspace_overlap(*bases) for bases in zip(*fits, strict=True)]))

    def run(design: Design, rng: np.random.Generator, replications: int) -> Tally:
        return in_batches(partial(simulate, design), expected(design))(rng, replications)

    return [
        Setting("overlap of subspaces", design.name, "coverage", partial(run, design), 200)
        for design in (PAIRS_12, SINGLE_12, TWINS)
    ]


def _nulls() -> list[Setting]:
    """Maps of labels that mean nothing, or whose directions are perpendicular."""

    def family(
        design: Design, compare: Compare, length: float,
        rng: np.random.Generator, replications: int,
    ) -> Tally:  # fmt: skip
        found = []
        for seed in range(replications):
            directions = length * axes(rng, 1)
            contrasts = {
                str(label): contrast_of(design, rng, direction, 1)
                for label, direction in enumerate(directions)
            }
            corrected = compare(contrasts, seed).p_corrected[:, *np.triu_indices(3, 1)]
            found.append(float(np.min(corrected)))
        return rejected(found)

    def cosines(estimator: Estimator, contrasts: dict[str, Contrast], seed: int) -> SimilarityMap:
        fits = FittedDirections.of(without_reliability(estimator), contrasts)
        return cosine_map(fits, permutations=PERMUTATIONS, seed=seed)

    def overlaps(contrasts: dict[str, Contrast], seed: int) -> SimilarityMap:
        return overlap_map(contrasts, permutations=PERMUTATIONS, resamples=2, seed=seed)

    means = partial(cosines, MeanDifference())
    rows: list[tuple[str, Design, Compare, float, int]] = [
        ("map of cosines, mean difference", design, means, 0.0, 500)
        for design in (PAIRS_24, SINGLE_12, COPIES, UNEQUAL, MIXED)
    ]
    for design in (PAIRS_12, UNEQUAL):
        rows.append(("map of perpendicular mean differences", design, means, 1.5, 300))
    for design in (PAIRS_12, COPIES):
        rows.append(("map of overlaps", design, overlaps, 0.0, 200))
    for name, design, replications in (
        ("logistic probe", PAIRS_24, 250),
        ("whitened mean difference", COPIES, 500),
        ("LEACE", PAIRS_24, 500),
    ):
        compare = partial(cosines, ESTIMATORS[name])
        rows.append((f"map of cosines, {name}", design, compare, 0.0, replications))
    return [
        Setting(
            name, f"{design.name}, any of 3 cells", "error",
            partial(family, design, compare, length), replications,
        )
        for name, design, compare, length, replications in rows
    ]  # fmt: skip


SETTINGS = (*_overlaps(), *_nulls())
