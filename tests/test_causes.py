"""Causes: shares that add up, coalitions that are the models themselves, planted causes named."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch

from experiments.calibration.simulated import noisy_change, simulated_undone
from interp.causes import (
    CAUSES,
    COALITIONS,
    MIXED,
    MOVES,
    PLAYERS,
    Change,
    Undone,
    control_effects,
    decide,
    undo,
)
from interp.causes.sampling import response_of
from interp.causes.undoing import shapley_matrix
from interp.errors import InputError
from interp.model import LanguageModel
from interp.patching import stitch
from interp.readout import at_last_token
from interp.statistics import Contrast
from tests.patched_models import changed, linear_model
from tests.planted_causes import NOTHING, PLANTS, SCATTER, Ground, explained
from unlearning.organism import shipped

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def ground() -> Ground:
    return Ground.load(shipped())


def contrast(shift: np.ndarray, *, midpoint: np.ndarray, rows: int = 24) -> Contrast:
    noise = np.random.default_rng(1).normal(size=(2, rows, 1, len(shift))) * 0.1
    return Contrast(midpoint + shift / 2 + noise[0], midpoint - shift / 2 + noise[1])


LAYERS = tuple(range(5))  # of the packaged model organism


def worths(value: dict[str, float], *, noise: float = 0.3, prompts: int = 40) -> np.ndarray:
    """Of an additive game: every coalition is worth what its players are."""
    members = np.array([[name in c for name in PLAYERS] for c in COALITIONS])
    prices = np.array([value.get(name, 0.0) for name in PLAYERS])
    spread = 1 + noise * np.random.default_rng(2).normal(size=prompts)
    return (members @ prices)[:, None] * spread


def test_shapley_values_are_the_average_over_all_orders() -> None:
    values = RNG.normal(size=2**4)
    gains = np.zeros(4)
    for order in permutations(range(4)):
        coalition = 0
        for player in order:
            gains[player] += values[coalition | 1 << player] - values[coalition]
            coalition |= 1 << player
    assert shapley_matrix(4) @ values == pytest.approx(gains / 24)


def test_shapley_values_add_up_and_give_a_null_player_nothing() -> None:
    values = RNG.normal(size=2**5)
    assert (shapley_matrix(5) @ values).sum() == pytest.approx(values[-1] - values[0])
    values = np.repeat(RNG.normal(size=2**4), 2)  # player 0 never matters
    assert (shapley_matrix(5) @ values)[0] == pytest.approx(0)


def test_each_move_is_seen_by_its_own_cause_alone() -> None:
    r, c = np.zeros(16), np.zeros(16)
    r[0], c[3] = 4.0, 1.0
    rotated, moved = np.zeros(16), np.zeros(16)
    rotated[1], moved[5] = 4.0, 2.0
    base = contrast(r, midpoint=c)
    for cause, after in (
        ("rotation", contrast(rotated, midpoint=c)),
        ("gain", contrast(0.3 * r, midpoint=c)),
        ("offset", contrast(r, midpoint=c + moved)),
    ):
        means = Change(base, after, (0,)).means(0)
        lengths = {name: np.linalg.norm(means.restoring(name)) for name in MOVES}
        assert max(lengths, key=lambda name: lengths[name]) == cause
        assert sum(lengths.values()) - lengths[cause] < 0.1
        assert means.with_base(MOVES) == pytest.approx(means.base.state)


def test_a_direction_that_vanished_did_not_turn() -> None:
    r, c = np.zeros(64), np.zeros(64)
    r[0] = 4.0
    after = Contrast(*np.random.default_rng(3).normal(size=(2, 24, 1, 64)))
    means = Change(contrast(r, midpoint=c), after, (0,)).means(0)
    assert np.linalg.norm(means.restoring("rotation")) == pytest.approx(0)
    assert np.linalg.norm(means.restoring("gain")) == pytest.approx(2.0, abs=0.5)


def test_halves_keep_pairs_together() -> None:
    states = RNG.normal(size=(40, 1, 3))
    pairs = np.array([[i, i] for i in range(20)])
    found = Contrast(states[:20], states[20:], pairs)
    side = Change(found, found, (0,)).halves(seed=0)
    assert (side[:20] == side[20:]).all()
    assert side.mean() == pytest.approx(0.5)


def test_contrasts_of_other_prompts_are_refused() -> None:
    states = RNG.normal(size=(12, 1, 3))
    with pytest.raises(InputError, match="same prompts"):
        Change(Contrast(states, states), Contrast(states[:8], states), (0,))


@pytest.mark.parametrize("cause", CAUSES)
def test_a_clear_cause_is_named(cause: str) -> None:
    verdict = decide(Undone(0, worths({cause: 3.0, "remainder": 0.2})), np.full(100, 0.1))
    assert verdict.cause == cause
    assert sum(s.value for s in verdict.shares.shapley.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "band", "because"),
    [
        ({"gain": 0.5}, 0.1, "not above 1"),
        ({"gain": 2.0, "offset": 1.95, "rotation": -1.0}, 0.1, "similar shares"),
        ({"gain": 2.0}, 1.2, "random edits"),
        ({"remainder": 2.0, "gain": 0.5}, 0.1, "single prompts"),
    ],
)
def test_what_is_not_decided_is_not_named(
    value: dict[str, float], band: float, because: str
) -> None:
    values = worths(value)
    values[1:-1] += np.random.default_rng(4).normal(size=values[1:-1].shape)
    verdict = decide(Undone(0, values), np.full(100, band))
    assert verdict.cause is None
    assert because in verdict.because


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_nothing_is_decided_against_controls_that_are_not_finite(number: float) -> None:
    controls = np.full(100, 0.1)
    controls[:10] = number
    verdict = decide(Undone(0, worths({"gain": 3.0})), controls)
    assert verdict.cause is None and "not finite" in verdict.because


def test_without_a_change_that_carries_half_the_cause_is_mixed() -> None:
    verdict = decide(Undone(0, worths({"routing": 2.0, "offset": 1.2, "rotation": 1.2})))
    assert verdict.cause == MIXED
    assert "routing 0.45 (" in verdict.because
    assert decide(Undone(0, worths({"gain": 0.3, "offset": 0.4}))).cause is None


def test_a_share_that_may_be_less_than_half_is_not_named() -> None:
    values = worths({"gain": 2.0, "offset": 1.0})
    values[1:-1] += 4.0 * np.random.default_rng(3).normal(size=values[1:-1].shape)
    share = Undone(0, values).shares().shapley["gain"]
    assert share.low < 0.5 < share.value
    verdict = decide(Undone(0, values))
    assert verdict.cause == MIXED and f"({share.low:.2f} to " in verdict.because


def test_without_an_interval_nothing_is_decided() -> None:
    verdict = decide(Undone(0, worths({"gain": 3.0}, prompts=4)))
    assert verdict.cause is None and "fewer than 5" in verdict.because


@pytest.mark.parametrize(("gain", "angle"), [(0.38, 0.0), (0.7, 50.0), (1.0, 70.0)])
def test_shares_of_gain_and_rotation_are_unbiased_in_many_dimensions(
    gain: float, angle: float
) -> None:
    found, truth = [], {}
    for seed in range(6):
        change, reader, truth = noisy_change(np.random.default_rng(seed), gain=gain, angle=angle)
        found.append(decide(simulated_undone(change, reader, seed), resamples=100))
    for name in ("rotation", "gain"):
        values = [verdict.shares.shapley[name].value for verdict in found]
        assert np.mean(values) == pytest.approx(truth[name], abs=0.04)
    leader = max(truth, key=lambda n: truth[n])
    allowed = {leader} if truth[leader] > 0.8 else {leader, MIXED}
    assert {verdict.cause for verdict in found} <= allowed


@pytest.mark.parametrize("above", [True, False])
def test_a_change_of_some_layers_is_routing_below_them_and_in_the_states_above(
    ground: Ground, above: bool
) -> None:
    """Only layers above the first change, or only layers up to it."""
    after = replace(ground.lm, model=copy.deepcopy(ground.lm.model))
    harmful = ground.texts("bias", "test")[0]
    layers = after.layers[1:] if above else after.layers[:1]
    weights = [p for layer in layers for p in layer.parameters() if p.ndim == 2]
    rows = [after.chat.encode(text) for text in harmful[:8]]
    for _ in range(3):
        for weight in weights:
            weight.requires_grad_(True).grad = None
        with torch.enable_grad():
            ground.readout(after, rows).sum().backward()
        with torch.no_grad():
            for weight in weights:
                weight -= 0.05 * weight.norm() * weight.grad / weight.grad.norm()
    states = [ground.contrast(lm, "bias", "test") for lm in (ground.lm, after)]
    undone = undo(ground.lm, after, harmful, Change(*states, LAYERS), ground.readout, layers=[0])
    shares = undone[0].shares(resamples=1).shapley
    assert undone[0].gap > 0.1
    assert shares["routing"].value == pytest.approx(1.0 if above else 0.0, abs=1e-3)


def test_an_edit_that_opens_a_dormant_path_is_not_named() -> None:
    values = worths({"gain": 3.0})
    has_gain = np.array(["gain" in coalition for coalition in COALITIONS])
    values[~has_gain] = values[0]
    values[len(COALITIONS) - 1 ^ 1 << PLAYERS.index("gain")] = values[-1]  # not needed at the end
    assert "one way only" in decide(Undone(0, values)).because


def test_a_share_whose_interval_holds_the_controls_is_not_named() -> None:
    """The point estimate lies above random edits; what it could as well be does not."""
    values = worths({"gain": 3.0})
    values[1:-1] += 2.0 * np.random.default_rng(4).normal(size=values[1:-1].shape)
    share = Undone(0, values).shares().shapley["gain"]
    band = (share.low + share.value) / 2
    assert share.low < band < share.value
    held = decide(Undone(0, values), np.full(100, band))
    assert held.cause is None and "random edits" in held.because
    freed = decide(Undone(0, values), np.full(100, share.low - 0.01))
    assert freed.cause == "gain"


def test_copies_of_a_prompt_make_no_share_more_certain() -> None:
    values = worths({"gain": 2.0, "offset": 1.0})
    values[1:-1] += np.random.default_rng(5).normal(size=values[1:-1].shape)
    once = Undone(0, values).shares()
    copies, groups = np.repeat(values, 4, axis=1), tuple(np.repeat(np.arange(40), 4))
    together, apart = Undone(0, copies, groups).shares(), Undone(0, copies).shares()
    for name in PLAYERS:
        one, same, narrow = (s.shapley[name] for s in (once, together, apart))
        assert (same.value, same.low, same.high) == pytest.approx((one.value, one.low, one.high))
        assert narrow.high - narrow.low < 0.7 * (one.high - one.low)


# Of models whose readout is linear in the states


def linear_change(
    lm: LanguageModel, *, seed: int = 0
) -> tuple[LanguageModel, LanguageModel, list[str], Change]:
    """Two linear models and planted states of 24 prompts of each class at their last layer."""
    rng = np.random.default_rng(seed)
    texts = [f"Name {word} number {i}." for i in range(6) for word in "abcd"]
    base = linear_model(lm, layers=2, seed=seed)
    after = changed(base, lambda name: "layers.0" in name, scale=0.5)
    r, turned, moved = 4 * np.eye(16)[:3]
    planted = (contrast(r, midpoint=np.zeros(16)), contrast(0.7 * turned, midpoint=moved))
    noisy = [Contrast(c.positive + 0.1 * rng.normal(size=(24, 1, 16)), c.negative) for c in planted]
    return base, after, texts, Change(*noisy, (1,))


of_first_logit = at_last_token(lambda logits: logits[:, 7].double())


def test_the_gradients_of_a_linear_readout_are_its_weights(ground: Ground) -> None:
    base, after, texts, change = linear_change(ground.lm)
    groups = np.arange(24) // 2
    undone = undo(base, after, texts, change, of_first_logit, seed=3, groups=groups)[0]
    sides = change.halves(seed=3)
    moved = np.array([0 < number < len(COALITIONS) - 1 for number in range(len(COALITIONS))])
    part = np.array([(sides[:24] == half).mean() for half in (0, 1)])
    weights = base.model.head.weight[7].detach().double().numpy()
    gradients = moved[:, None, None] * part[:, None] * weights
    known = response_of(change, 1, sides, gradients, COALITIONS, groups)
    assert undone.response is not None
    np.testing.assert_allclose(undone.response.effect, known.effect, atol=1e-5)
    np.testing.assert_allclose(undone.response.counted_twice, known.counted_twice, atol=1e-5)
    assert len(set(known.units)) == 12


def test_a_unit_s_response_is_what_leaving_it_out_does() -> None:
    """The offset's move is linear in the means, so the jackknife is exact."""
    change, reader, _ = noisy_change(np.random.default_rng(0), gain=0.7, angle=30.0, d_model=32)
    sides, offset = change.halves(0), COALITIONS.index(("offset",))
    gradients = np.broadcast_to(reader / 2, (len(COALITIONS), 2, 32))
    effect = response_of(change, 0, sides, gradients, COALITIONS).effect[offset]
    for unit in (0, 5):
        rows = sides == sides[unit]
        without = rows & (change.base.units != unit)
        both = [change.means(0, chosen).move(["offset"]) for chosen in (rows, without)]
        pairs = rows.sum() / 2
        by_hand = (pairs - 1) / pairs * (both[0] - both[1]) @ reader / 2
        correction = np.sqrt(pairs / (pairs - 1) * 23 / 24)
        assert effect[unit] == pytest.approx(by_hand * correction)


def test_intervals_hold_what_the_means_add() -> None:
    change, reader, _ = noisy_change(np.random.default_rng(0), gain=0.7, angle=50.0, d_model=64)
    whole = simulated_undone(change, reader, 0)
    known = replace(whole, response=None)
    for cause in ("rotation", "gain"):
        wide, narrow = (one.shares().shapley[cause] for one in (whole, known))
        assert wide.value == narrow.value
        assert wide.high - wide.low > 1.2 * (narrow.high - narrow.low)


def test_a_prompt_s_move_is_read_off_the_prompts_of_the_other_half(ground: Ground) -> None:
    base, after, texts, change = linear_change(ground.lm)
    side = change.halves(seed=3)
    states = change.after.states.copy()
    states[side == 0] += np.random.default_rng(1).normal(size=16)
    shifted = replace(change, after=Contrast(states[:24], states[24:]))
    offset = COALITIONS.index(("offset",))
    one, other = (
        undo(base, after, texts, given, of_first_logit, seed=3)[0].values[offset]
        for given in (change, shifted)
    )
    own = side[:24] == 0
    assert one[own] == pytest.approx(other[own], abs=1e-9)
    assert (np.abs(one - other)[~own] > 1e-3).all()


def test_controls_are_as_long_as_the_edits_in_both_models(ground: Ground) -> None:
    """A linear readout moves by the length of a control times what its direction does."""
    base, after, texts, change = linear_change(ground.lm)
    means, found = change.means(1), {}
    for cause in MOVES:
        lengths = [np.linalg.norm(move(cause)) for move in (means.restoring, means.removing)]
        effects = control_effects(
            base, after, texts, change, of_first_logit, layer=1, cause=cause, draws=12
        )
        found[cause] = effects / np.mean(lengths)
        assert np.abs(effects).min() > 0
    for cause in MOVES:
        np.testing.assert_allclose(found[cause], found["offset"], rtol=1e-5)
    assert not np.allclose(
        *(np.linalg.norm(m("rotation")) for m in (means.restoring, means.removing))
    )


def test_controls_go_where_prompts_of_one_class_differ(ground: Ground) -> None:
    """The two classes lie far apart along what is read, and no prompt leaves its own there."""
    base, after, texts, change = linear_change(ground.lm)
    read = base.model.head.weight[7].detach().numpy()
    read = read / np.linalg.norm(read)
    sides = []
    for states, to in ((change.after.positive, 30.0), (change.after.negative, -30.0)):
        sides.append(states - (states @ read)[..., None] * read + to * read)
    apart = replace(change, after=Contrast(*sides))
    wide, plain = (
        control_effects(
            base, after, texts, given, of_first_logit, layer=1, cause="offset", draws=20
        )
        / np.linalg.norm(given.means(1).restoring("offset"))
        for given in (apart, change)
    )
    assert np.abs(wide).max() < 1e-6 * np.abs(plain).max()


def test_noise_for_routing_is_in_later_layers_alone(ground: Ground) -> None:
    """Models that differ at one layer are read alike after it, so its controls do nothing."""
    texts = ground.texts("bias", "test")[0]
    after = changed(ground.lm, lambda name: ".1." in name, scale=0.5)
    found = ground.base_contrast("bias", "test")
    for layer in (0, 1):
        effects = control_effects(
            ground.lm, after, texts, Change(found, found, LAYERS), ground.readout,
            layer=layer, cause="routing", draws=3,
        )  # fmt: skip
        assert (np.abs(effects) > 1e-6).all() if layer == 0 else (effects == 0).all()


def test_coalitions_agree_with_stitching(ground: Ground) -> None:
    plant = ground.draw("gain", 0)
    after = ground.after(plant)
    harmful = ground.texts(plant.domain, "test")[0]
    states = [ground.contrast(lm, plant.domain, "test") for lm in (ground.lm, after)]
    groups = [number // 2 for number in range(len(harmful))]
    change = Change(*states, LAYERS)
    undone = undo(ground.lm, after, harmful, change, ground.readout, groups=groups)
    assert all(at_layer.groups == tuple(groups) for at_layer in undone)
    stitched = stitch(ground.lm, after, harmful, ground.readout)
    routing, rest = (
        COALITIONS.index(("routing",)),
        COALITIONS.index(("rotation", "gain", "offset", "remainder")),
    )
    for layer, at_layer in enumerate(undone):
        assert at_layer.values[0] == pytest.approx(stitched.after, abs=1e-5)
        assert at_layer.values[-1] == pytest.approx(stitched.base, abs=1e-5)
        assert at_layer.values[routing] == pytest.approx(stitched.after_below[layer], abs=1e-4)
        assert at_layer.values[rest] == pytest.approx(stitched.base_below[layer], abs=1e-4)


def test_a_model_against_itself_lost_nothing_and_is_left_as_it_was(ground: Ground) -> None:
    found = ground.base_contrast("bias", "test")
    harmful = ground.texts("bias", "test")[0]
    before = ground.lm.fingerprint()
    change = Change(found, found, LAYERS)
    for at_layer in undo(ground.lm, ground.lm, harmful, change, ground.readout):
        assert np.ptp(at_layer.values, axis=0).max() < 1e-4
        assert decide(at_layer).cause is None
    plant = ground.draw("routing", 0)
    after = ground.after(plant)
    control_effects(
        ground.lm, after, harmful, change, ground.readout, layer=4, cause="routing", draws=3
    )
    assert ground.lm.fingerprint() == before


def test_states_need_their_texts(ground: Ground) -> None:
    found = ground.base_contrast("bias", "test")
    with pytest.raises(InputError, match="positive states"):
        undo(ground.lm, ground.lm, ["one"], Change(found, found, LAYERS), ground.readout)


@pytest.mark.slow
@pytest.mark.parametrize("kind", PLANTS)
def test_planted_causes_are_named_and_nothing_is_not(ground: Ground, kind: str) -> None:
    """One case of each kind; all twenty: python -m tests.benchmarks.planted_causes."""
    verdict, _ = explained(ground, ground.draw(kind, 100), draws=25)
    assert verdict.cause == (None if kind in (NOTHING, SCATTER) else kind), verdict
