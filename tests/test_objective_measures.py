"""Agreement of losses: a planted interaction is found, whatever the main effects; noise is not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.objectives import CHANGES, objective_agreement
from unlearning.data import DOMAINS
from unlearning.training import TrainingSettings


def cells(
    seed: int, interaction: np.ndarray, *, noise: float = 0.0, sources: int = 7
) -> pd.DataFrame:
    """A[a,b] of two unlearning seeds: main effects of this loss alone, and the true interaction."""
    rng = np.random.default_rng(seed)
    source_effect, target_effect = rng.normal(size=(2, len(DOMAINS)))
    rows = [
        {
            "arm": f"{source}-{run}", "source": source, "domain": target, "seed": run,
            "area": source_effect[a] + target_effect[b] + interaction[a, b] + noise * rng.normal(),
        }
        for a, source in enumerate(DOMAINS[:sources])
        for b, target in enumerate(DOMAINS)
        if source != target
        for run in (0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def planted(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(DOMAINS), len(DOMAINS)))


def test_one_interaction_under_other_main_effects_agrees_wholly() -> None:
    found = objective_agreement({"npo": cells(1, planted(0)), "dpo": cells(2, planted(0))})
    (pair,) = found["between"]
    assert pair["objectives"] == ["npo", "dpo"]
    assert pair["r"] == pytest.approx(1) and pair["cells"] == 42
    assert all(one["r"] == pytest.approx(1) for one in found["within"].values())
    assert found["complied"] == {"npo": 14, "dpo": 14}


def test_unrelated_interactions_do_not_agree() -> None:
    found = [
        objective_agreement({"npo": cells(i, planted(2 * i)), "dpo": cells(i, planted(2 * i + 1))})
        for i in range(40)
    ]
    values = np.array([one["between"][0]["r"] for one in found])
    # 29 degrees of freedom are left to 42 cells: a null correlation has an SD of about .19.
    assert abs(values.mean()) < 0.1
    assert 0.12 < values.std() < 0.26


def test_noise_alone_has_no_reliability() -> None:
    nothing = np.zeros((7, 7))
    values = [
        objective_agreement({"npo": cells(i, nothing, noise=1.0)})["within"]["npo"]["r"]
        for i in range(40)
    ]
    assert abs(np.mean(values)) < 0.1


def test_sources_too_few_for_a_decomposition_say_nothing() -> None:
    found = objective_agreement(
        {"npo": cells(1, planted(0)), "rmu": cells(2, planted(0), sources=1)}
    )
    assert found["between"][0]["r"] is None and found["within"]["rmu"] is None


def test_the_settings_of_every_objective_are_valid() -> None:
    assert len(CHANGES) == 6
    for name, changes in CHANGES.items():
        assert TrainingSettings(objective=name, **changes).objective == name
