"""False positives of the similarity maps on pure noise.

    python -m tests.benchmarks.noise_heatmaps --heatmaps 1000
    python -m tests.benchmarks.noise_heatmaps --measure whitened overlap cka procrustes

Four labels of 24 pairs, three layers that share half of their noise, 32 anisotropic dimensions; for
``cka`` and ``procrustes`` three unrelated representations of 48 prompts. Prints the share of cells
with p ≤ .05, of heatmaps with any corrected p ≤ .05, and of undefined cells.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from interp.similarity import SimilarityMap, cosine_map, whitening
from interp.similarity.cka import cka_map
from interp.similarity.procrustes import procrustes_map
from interp.similarity.subspaces import overlap_map
from interp.statistics import Contrast

LABELS, PAIRS, LAYERS, D_MODEL = 4, 24, 3, 32
SPREAD = np.arange(1, D_MODEL + 1) ** -0.5
Contrasts = dict[str, Contrast]


def noise(rng: np.random.Generator, prompts: int = PAIRS) -> np.ndarray:
    """States of prompts, half of their noise common to the layers."""
    shared = rng.normal(size=(prompts, 1, D_MODEL))
    return SPREAD * (shared + rng.normal(size=(prompts, LAYERS, D_MODEL)))


def noise_contrasts(rng: np.random.Generator, matched: bool) -> Contrasts:
    """Labels that mean nothing."""
    links = np.repeat(np.arange(PAIRS)[:, None], 2, axis=1) if matched else None
    contrasts = {}
    for label in range(LABELS):
        common = noise(rng) if matched else 0.0
        contrasts[str(label)] = Contrast(common + noise(rng), common + noise(rng), links)
    return contrasts


def whitened(contrasts: Contrasts, seed: int) -> SimilarityMap:
    """Whitened by the very prompts that the directions are fitted to: the harder case."""
    states = np.concatenate([c.states for c in contrasts.values()])
    classes = np.concatenate([c.classes + 2 * i for i, c in enumerate(contrasts.values())])
    change = whitening(states, classes)
    mapped = {label: c.mapped(change) for label, c in contrasts.items()}
    return cosine_map(mapped, permutations=200, seed=seed)


BETWEEN_LABELS: dict[str, Callable[[Contrasts, int], SimilarityMap]] = {
    "cosine": lambda contrasts, seed: cosine_map(contrasts, permutations=200, seed=seed),
    "whitened": whitened,
    "overlap": lambda contrasts, seed: overlap_map(
        contrasts, permutations=100, resamples=2, seed=seed
    ),
}
BETWEEN_MODELS: dict[str, Callable[[dict[str, np.ndarray], int], SimilarityMap]] = {
    "cka": lambda states, seed: cka_map(states, permutations=100, seed=seed),
    "procrustes": lambda states, seed: procrustes_map(states, draws=200, seed=seed),
}


def main() -> None:
    """Run the heatmaps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heatmaps", type=int, default=1000)
    names = [*BETWEEN_LABELS, *BETWEEN_MODELS]
    parser.add_argument("--measure", nargs="*", choices=names, default=["cosine"])
    options = parser.parse_args()
    for name in options.measure:
        rng = np.random.default_rng(2026)
        for matched in (True, False) if name in BETWEEN_LABELS else (False,):
            cell, family, undefined = [], [], []
            for seed in range(options.heatmaps):
                if name in BETWEEN_LABELS:
                    found = BETWEEN_LABELS[name](noise_contrasts(rng, matched), seed)
                else:
                    models = {str(model): noise(rng, 2 * PAIRS) for model in range(3)}
                    found = BETWEEN_MODELS[name](models, seed)
                off_diagonal = np.triu_indices(len(found.labels), 1)
                cell.append((found.p[:, *off_diagonal] <= 0.05).mean())
                family.append((found.p_corrected[:, *off_diagonal] <= 0.05).any())
                undefined.append(1 - found.defined[:, *off_diagonal].mean())
            print(
                f"{name}, {'matched' if matched else 'unmatched'}: cells {np.mean(cell):.4f}, "
                f"family {np.mean(family):.4f}, undefined {np.mean(undefined):.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
