"""What a run keeps of its states."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from analyses.runs import write_directions
from interp.directions import DirectionSet
from interp.statistics import Contrast


def test_directions_point_from_benign_to_harmful(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    planted = np.zeros(8)
    planted[3] = 5.0
    states = rng.normal(size=(40, 2, 8))
    harmful = np.arange(40) < 20
    states[harmful] += planted
    write_directions(tmp_path, {"safety": Contrast.from_labels(states, harmful)}, (0, 1), {})
    for name in ("directions", "principal_components"):
        kept = DirectionSet.load(tmp_path / f"{name}.safetensors")
        for layer in (0, 1):
            direction = kept.select("safety", layer)
            assert direction.shape == (8,) and np.isfinite(direction).all()
    means = DirectionSet.load(tmp_path / "directions.safetensors")
    for layer in (0, 1):
        np.testing.assert_allclose(means.select("safety", layer), planted, atol=1.0)
