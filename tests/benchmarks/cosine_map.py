"""Nulls of a probe's cosine map: what a thousand refits take, ours and scikit-learn's.

    python -m tests.benchmarks.cosine_map

Seven labels of 40 + 40 prompts at 30 layers of width 576. The physical limit is the time of the
matrix products that the refits cannot do without: for every regression six Newton steps with one
product to the logits and one back. scikit-learn's time is that of a hundred regressions in the same
few coordinates, times the number of refits.
"""

from __future__ import annotations

import argparse
import json
from time import perf_counter

import numpy as np
from sklearn.linear_model import LogisticRegression

from interp.directions import FittedDirections, LogisticProbe
from interp.similarity import cosine_map
from interp.statistics import Contrast

NEWTON_STEPS = 6


def contrasts(
    labels: int = 7, layers: int = 30, width: int = 576, side: int = 40, seed: int = 0
) -> dict[str, Contrast]:
    """Noise with a spectrum of 1/i, and a direction of each label."""
    rng = np.random.default_rng(seed)
    sd = np.arange(1, width + 1) ** -0.5
    found = {}
    for label in range(labels):
        states = rng.normal(size=(2 * side, layers, width)) * sd
        states[:side] += 0.3 * rng.normal(size=width) * sd
        found[f"label {label}"] = Contrast(states[:side], states[side:])
    return found


def measure(permutations: int = 1000, sample: int = 100, **size: int) -> dict[str, float]:
    """Seconds of the map and of the fit; of scikit-learn and of bare products for as many refits.

    Args:
        permutations: of the map.
        sample: regressions of scikit-learn that are timed, and taken for the rest.
        **size: of :func:`contrasts`.
    """
    labelled = contrasts(**size)
    start = perf_counter()
    directions = FittedDirections.of(LogisticProbe(resamples=0), labelled)
    fitted = perf_counter()
    cosine_map(directions, permutations=permutations)
    mapped = perf_counter()

    contrast = next(iter(labelled.values()))
    rows, layers = contrast.states[:, 0], contrast.states.shape[1]
    refits = permutations * layers * len(labelled)
    rng = np.random.default_rng(0)
    coordinates, _ = LogisticProbe().prepared(contrast)
    scaled = coordinates.coordinates[0]
    scaled = scaled / np.sqrt((scaled**2).sum() / rows.size)
    labellings = np.stack([rng.permutation(contrast.classes == 0) for _ in range(permutations)])
    begun = perf_counter()
    for labels in labellings[:sample]:
        LogisticRegression(max_iter=1000).fit(scaled, labels)
    usual = (perf_counter() - begun) / min(sample, permutations) * refits

    weights = rng.normal(size=(permutations, scaled.shape[1]))
    begun = perf_counter()
    for _ in range(NEWTON_STEPS):
        weights = (weights @ scaled.T) @ scaled / len(scaled)
    bare = (perf_counter() - begun) * layers * len(labelled)
    return {"fit": fitted - start, "map": mapped - fitted, "scikit_learn": usual, "products": bare}


def main() -> None:
    """Measure, and print the seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--permutations", type=int, default=1000)
    print(json.dumps(measure(parser.parse_args().permutations)))


if __name__ == "__main__":
    main()
