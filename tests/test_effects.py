"""Effects come with honest intervals, and random patches are called random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.activations import HEADS, RESIDUAL_OUT
from interp.errors import InputError
from interp.model import LanguageModel
from interp.patching import WHOLE, Cell, Effects, between_models, patch
from interp.patching.alignment import Replacement
from interp.patching.places import patch_places, random_directions, random_move
from tests.checkpoints import LAYERS
from tests.patched_models import PROMPTS, changed, some_log_odds

Checkpoints = Callable[[str], Path]
CHANGED = 2


def mlp_changed(lm: LanguageModel) -> LanguageModel:
    return changed(lm, lambda name: f".{CHANGED}.mlp" in name, scale=8.0)


# Controls


def test_controls_move_as_far_in_directions_that_states_take(llama: LanguageModel) -> None:
    runs = between_models(llama, mlp_changed(llama), PROMPTS)
    places = patch_places(runs, [RESIDUAL_OUT, HEADS], [CHANGED], ["instruction", WHOLE])
    with torch.no_grad():
        axes = random_directions(runs, places, 40, seed=0, batch_size=2)
        again = random_directions(runs, places, 40, seed=0, batch_size=4)
    assert [axis.norm().item() for axis in axes[0]] == pytest.approx([1.0] * len(places))
    for one, other in zip(axes, again, strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    # Centred states of four prompts span three dimensions.
    lengths = torch.linalg.svdvals(torch.stack([axis[0] for axis in axes]))
    assert lengths[2] > 0.1 and lengths[3] < 1e-4
    states, given = torch.randn(2, 5, 64), torch.randn(2, 5, 64)
    taken = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1]]).bool()
    for features in (slice(None), slice(16, 32)):
        swap = Replacement(given, taken, features)
        axis = axes[0][0][features] / axes[0][0][features].norm()
        moved = random_move(swap, axis)(states) - states
        torch.testing.assert_close(moved.norm(dim=-1), (swap(states) - states).norm(dim=-1))
        along = moved[..., features] @ axis.float()
        torch.testing.assert_close(along.abs(), moved.norm(dim=-1))


def test_controls_come_with_the_effects(llama: LanguageModel) -> None:
    runs = between_models(llama, mlp_changed(llama), PROMPTS)
    found = patch(runs, some_log_odds(llama), positions=[WHOLE], controls=3)
    assert found.controls is not None and found.controls.shape == (3, LAYERS, len(PROMPTS))
    # Where the patch changes nothing, nothing is moved.
    assert found.controls[:, 0] == pytest.approx(np.tile(found.target, (3, 1)), abs=1e-6)
    assert np.abs(found.controls[:, CHANGED] - found.target).max() > 1e-4
    table = found.to_dataframe(resamples=100)
    assert table["p"].tolist()[0] == 1
    with pytest.raises(InputError, match="two at least"):
        patch(between_models(llama, llama, PROMPTS[:1]), some_log_odds(llama), controls=1)


def test_cells_whose_states_do_not_vary_have_no_null(llama: LanguageModel) -> None:
    runs = between_models(llama, mlp_changed(llama), PROMPTS)
    first, *others = runs.target_rows
    rows = (replace(first, spans={**first.spans, "rare": first.spans["instruction"]}), *others)
    runs = replace(runs, source_rows=rows, target_rows=rows)
    names = ["system", "rare", "instruction"]
    found = patch(runs, some_log_odds(llama), layers=[CHANGED], positions=names, controls=3)
    assert found.controls is not None
    assert np.isnan(found.controls[:, :2]).all() and np.isfinite(found.controls[:, 2]).all()
    assert (found.patched[0] != found.target).all()
    table = found.to_dataframe(resamples=2)
    alone = replace(
        found, cells=found.cells[2:], patched=found.patched[2:], controls=found.controls[:, 2:]
    ).to_dataframe(resamples=2)
    for name in ("control_low", "control_high", "p", "p_family_wise"):
        assert table[name].isna().tolist() == [True, True, False]
        assert table[name][2] == alone[name][0]


def noise_effects(rng: np.random.Generator, planted: float = 0.0) -> Effects:
    """Cells of very different size that share most of their noise."""
    scale = np.array([0.01, 1.0, 30.0])
    draws = (rng.normal(size=(40, 1)) + 0.5 * rng.normal(size=(40, 3))) * scale
    draws[0] += planted * scale * [0, 1, 0]
    target = rng.normal(size=5)
    values = target + np.repeat(draws[..., None], 5, axis=2)
    cells = tuple(Cell(i, "residual_out") for i in range(3))
    return Effects(cells, values[0], target, target + 1, values[1:])


def test_random_patches_are_called_so_at_the_nominal_rate() -> None:
    rng = np.random.default_rng(0)
    tables = [noise_effects(rng).to_dataframe(resamples=2) for _ in range(400)]
    single = np.mean([(table["p"] <= 0.05).mean() for table in tables])
    family = np.mean([(table["p_family_wise"] <= 0.05).any() for table in tables])
    assert 0.03 < single < 0.075
    assert 0.02 < family < 0.08
    planted = [noise_effects(rng, 8.0).to_dataframe(resamples=2) for _ in range(20)]
    assert all(table["p_family_wise"][1] <= 0.05 for table in planted)


def test_an_effect_is_as_remarkable_downwards_as_upwards() -> None:
    """Sizes are compared: neither a fall nor a rise is excused by its sign."""
    rng = np.random.default_rng(1)
    found = noise_effects(rng, 9.0)
    mirrored = Effects(
        found.cells, 2 * found.target - found.patched, found.target, found.source,
        2 * found.target - found.controls,
    )  # fmt: skip
    up, down = (each.to_dataframe(resamples=2) for each in (found, mirrored))
    for name in ("p", "p_family_wise"):
        assert up[name].tolist() == down[name].tolist()
        assert up[name][1] <= 0.05
    assert up["control_low"].to_numpy() == pytest.approx(-down["control_high"].to_numpy())
    # Controls that fall as far as the patch rises are as large.
    assert found.controls is not None
    fallen = Effects(found.cells, found.patched, found.target, found.source,
                     2 * found.target - np.stack([found.patched] * 19))  # fmt: skip
    assert fallen.to_dataframe(resamples=2)["p"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("of_control", [True, False])
def test_cells_that_are_not_finite_have_no_p_and_do_not_change_the_others(
    number: float, of_control: bool
) -> None:
    found = noise_effects(np.random.default_rng(2))
    assert found.controls is not None
    rest = replace(
        found, cells=found.cells[1:], patched=found.patched[1:], controls=found.controls[:, 1:]
    ).to_dataframe(resamples=2)
    (found.controls[3] if of_control else found.patched)[0] = number
    table = found.to_dataframe(resamples=2)
    for name in ("p", "p_family_wise"):
        assert np.isnan(table[name][0])
        assert table[name].tolist()[1:] == rest[name].tolist()


# Effects as numbers


def test_fractions_are_ratios_of_means_with_their_intervals() -> None:
    rng = np.random.default_rng(0)
    target = rng.normal(size=60)
    source = target + 4 + rng.normal(size=60)
    patched = np.stack([target, source, target + 0.25 * (source - target)])
    cells = tuple(Cell(None, name) for name in ("none", "all", "quarter"))
    found = Effects(cells, patched, target, source)
    table = found.to_dataframe()
    assert table["fraction"].tolist() == pytest.approx([0, 1, 0.25])
    # A ratio is resampled as one: where every prompt has the same, nothing varies.
    assert table["fraction_low"].tolist() == pytest.approx([0, 1, 0.25])
    assert (table["effect_low"] <= table["effect"]).all()
    assert table["effect_low"][1] < table["effect"][1] - 0.1
    assert table["layer"].isna().all() and (table["n"] == 60).all()
    # A prompt on which the two hardly differ does not count for as much as one that they do on.
    share, gap = rng.uniform(0, 1, 60), source - target
    uneven = Effects(cells[:1], (target + share * gap)[None], target, source)
    row = uneven.to_dataframe().iloc[0]
    assert row["fraction"] == pytest.approx((share * gap).sum() / gap.sum())
    assert abs(row["fraction"] - share.mean()) > 1e-3
    assert row["fraction_low"] < row["fraction"] < row["fraction_high"]
    weak = found.to_dataframe(least_gap=10.0)
    assert not weak["defined"].any() and weak["fraction"].isna().all()
    assert weak["effect"].notna().all()


def test_prompts_that_belong_together_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=20), 5)
    found = Effects((Cell(0, "x"),), values[None], np.zeros(100), np.ones(100))
    alone = found.to_dataframe(least_gap=0)
    together = found.to_dataframe(least_gap=0, groups=np.repeat(np.arange(20), 5).tolist())
    widths = [(t["effect_high"] - t["effect_low"]).item() for t in (alone, together)]
    assert widths[1] == pytest.approx(5**0.5 * widths[0], rel=0.15)
