"""False positives of the cosine map on pure noise.

    python -m tests.benchmarks.noise_heatmaps --heatmaps 1000

Four labels of 24 pairs, three layers that share half of their noise, 32 anisotropic dimensions.
Prints the share of cells with p ≤ .05, of heatmaps with any corrected p ≤ .05, and of undefined
cells.
"""

from __future__ import annotations

import argparse

import numpy as np

from interp.contrast import Contrast
from interp.geometry import cosine_map

LABELS, PAIRS, LAYERS, D_MODEL = 4, 24, 3, 32


def main() -> None:
    """Run the heatmaps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heatmaps", type=int, default=1000)
    options = parser.parse_args()
    rng = np.random.default_rng(2026)
    sd = np.arange(1, D_MODEL + 1) ** -0.5

    def noise() -> np.ndarray:
        shared = rng.normal(size=(PAIRS, 1, D_MODEL))
        return sd * (shared + rng.normal(size=(PAIRS, LAYERS, D_MODEL)))

    links = np.repeat(np.arange(PAIRS)[:, None], 2, axis=1)
    off_diagonal = np.triu_indices(LABELS, 1)
    for twins in (True, False):
        cell, family, undefined = [], [], []
        for seed in range(options.heatmaps):
            contrasts = {}
            for label in range(LABELS):
                common = noise() if twins else 0.0
                contrasts[str(label)] = Contrast(
                    common + noise(), common + noise(), links if twins else None
                )
            found = cosine_map(contrasts, permutations=200, seed=seed)
            cell.append((found.p[:, *off_diagonal] <= 0.05).mean())
            family.append((found.p_corrected[:, *off_diagonal] <= 0.05).any())
            undefined.append(1 - found.defined[:, *off_diagonal].mean())
        print(
            f"{'twins' if twins else 'no twins'}: cells {np.mean(cell):.4f}, "
            f"family {np.mean(family):.4f}, undefined {np.mean(undefined):.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
