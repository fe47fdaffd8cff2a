"""Coverage of the 95% intervals for rotation over the whole grid.

    python -m tests.benchmarks.rotation_coverage --worlds 400

Prints one line per cell (share of intervals that hold the planted value, share of worlds where the
angle is defined, median estimate and interval width in degrees) and the cells outside 92–98%.
"""

from __future__ import annotations

import argparse

import numpy as np

from interp.similarity import rotation
from interp.similarity.rotations import QUANTITIES
from interp.statistics import Estimates
from tests.planted_directions import Planted, planted_change

ANGLES = (0, 5, 15, 40, 90)
RATIOS = (0.5, 1, 4)
SIZES = (32, 64, 256)


def covered(estimates: Estimates, truth: float) -> float:
    """Percent of the defined intervals that hold the truth; rounding of 1e-6 is forgiven."""
    inside = (estimates.low <= truth + 1e-6) & (estimates.high >= truth - 1e-6)
    return 100 * float(inside[estimates.defined].mean()) if estimates.defined.any() else np.nan


def main() -> None:
    """Run the grid."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=400)
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES)
    parser.add_argument("--snr-scale", type=float, default=1.0)
    parser.add_argument("--unpaired", action="store_true")
    options = parser.parse_args()
    outside: dict[str, int] = dict.fromkeys(QUANTITIES, 0)
    cells = 0
    print("same snr n angle | " + " ".join(QUANTITIES) + " | defined median width")
    for same in (True, False):
        for snr in RATIOS:
            for n in options.sizes:
                for angle in ANGLES:
                    truth = Planted(angle, gain=0.7, offset=-0.3, offset_orthogonal=0.2)
                    before, after = planted_change(
                        truth,
                        snr=snr * options.snr_scale,
                        n=n,
                        same_prompts=same,
                        worlds=options.worlds,
                        seed=hash((same, snr, n, angle)) % 2**32,
                        paired=not options.unpaired,
                    )
                    result = rotation(before, after, same_prompts=same)
                    planted = {
                        "angle_degrees": angle,
                        "cosine": np.cos(np.radians(angle)),
                        "gain": truth.gain,
                        "offset": truth.offset,
                        "offset_orthogonal": truth.offset_orthogonal,
                    }
                    rates = {q: covered(getattr(result, q), planted[q]) for q in QUANTITIES}
                    cells += 1
                    for quantity, rate in rates.items():
                        outside[quantity] += not 92 <= rate <= 98
                    angles = result.angle_degrees
                    print(
                        f"{'same' if same else 'different'} {snr} {n} {angle} | "
                        + " ".join(f"{rate:.1f}" for rate in rates.values())
                        + f" | {100 * angles.defined.mean():.0f}% {np.nanmedian(angles.value):.1f}"
                        f" {np.nanmedian(angles.high - angles.low):.1f}",
                        flush=True,
                    )
    print(f"cells outside 92–98% of {cells}:", outside)


if __name__ == "__main__":
    main()
