"""Selection: the three numbers are what they say, the rule is the paper's, held out is held out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.activations import RESIDUAL_IN, collect
from interp.activations.positions import every_token
from interp.errors import InputError
from interp.interventions import ablate, add
from interp.model import LanguageModel
from interp.readout import Readout, at_last_token, log_odds
from interp.selection import (
    Candidates,
    Prompts,
    choose_held_out,
    next_token_divergence,
    score_candidates,
)
from tests.patched_models import PROMPTS, last_logits
from unlearning.organism import load_world, shipped
from unlearning.organism.vocabulary import REFUSAL_PREFIXES

Checkpoints = Callable[[str], Path]


def between(lm: LanguageModel, positive: tuple[str, ...], negative: tuple[str, ...]) -> Readout:
    """Above 0 for these positives, below for these negatives, in a model that knows nothing."""
    logits = [last_logits(lm, prompts) for prompts in (positive, negative)]
    axis = logits[0].mean(dim=0) - logits[1].mean(dim=0)
    middle = sum((x @ axis).mean() for x in logits) / 2
    return at_last_token(lambda found: found @ axis - middle)


def test_the_numbers_are_those_of_the_interventions(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    positive, negative = PROMPTS[:2], PROMPTS[2:]
    readout = between(lm, positive, negative)
    prompts = Prompts(positive, negative)
    found = score_candidates(lm, prompts, prompts, readout, batch_size=1)
    assert found.layers == (0, 1, 2)  # int(0.8 · 4), the last layer left out
    assert found.positions[-1] == -1 and found.bypass.shape[:2] == (3, len(found.positions))
    states = [collect(lm, p, sites=[RESIDUAL_IN]).states.astype(np.float64).mean(axis=0)
              for p in prompts_kept(lm, readout, prompts)]  # fmt: skip
    for layer in found.layers:
        direction = found.directions[layer, -1]
        assert direction == pytest.approx((states[0] - states[1])[layer], abs=1e-5)
        kept = prompts_kept(lm, readout, prompts)
        base = last_logits(lm, kept[1])
        # At the input of layer 0 a template's token knows nothing of the prompt.
        with ablate(lm, direction) if direction.any() else nullcontext():
            bypass = read(lm, readout, kept[0])
            kl = next_token_divergence(base, last_logits(lm, kept[1]))
        with add(lm, direction, layers=[layer], sites=[RESIDUAL_IN]):
            induce = read(lm, readout, kept[1])
        for wanted, scores in ((bypass, found.bypass), (induce, found.induce), (kl, found.kl)):
            assert scores[layer, -1] == pytest.approx(wanted.numpy(), abs=1e-4)
    assert (found.kl >= -1e-12).all()


@torch.no_grad()
def read(lm: LanguageModel, readout: Readout, prompts: tuple[str, ...]) -> torch.Tensor:
    return readout(lm, [lm.chat.encode(prompt) for prompt in prompts])


def prompts_kept(lm: LanguageModel, readout: Readout, prompts: Prompts) -> list[tuple[str, ...]]:
    positive = [p for p in prompts.positive if read(lm, readout, (p,)) > 0]
    negative = [p for p in prompts.negative if read(lm, readout, (p,)) < 0]
    return [tuple(positive), tuple(negative)]


def test_only_prompts_on_the_right_side_count(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"))
    readout = between(lm, PROMPTS[:2], PROMPTS[2:])
    prompts = Prompts(PROMPTS, PROMPTS)
    found = score_candidates(lm, prompts, prompts, readout, layers=[1])
    sides = [read(lm, readout, (p,)).item() > 0 for p in PROMPTS]
    assert len(found.positive) == sum(sides) and len(found.negative) == len(sides) - sum(sides)
    assert (found.positive > 0).all() and (found.negative < 0).all()
    # The direction of a layer is added at that layer, wherever it stands among those tried.
    kept = prompts_kept(lm, readout, prompts)
    with add(lm, found.directions[0, -1], layers=[1], sites=[RESIDUAL_IN]):
        induced = read(lm, readout, kept[1])
    assert found.induce[0, -1] == pytest.approx(induced.numpy(), abs=1e-4)
    with pytest.raises(InputError, match="none of 4 positive prompts has a readout above 0"):
        score_candidates(lm, prompts, prompts, lambda _lm, rows: -torch.ones(len(rows)))


def test_positions_that_some_prompts_do_not_have_are_left_out(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    readout = between(lm, PROMPTS[:2], PROMPTS[2:])
    prompts = Prompts(PROMPTS[:2], PROMPTS[2:])
    positions = every_token("instruction", "post_instruction")
    found = score_candidates(lm, prompts, prompts, readout, layers=[0], positions=positions)
    rows = [lm.chat.encode(p) for kept in prompts_kept(lm, readout, prompts) for p in kept]
    counts = [len(positions(row)) for row in rows]
    assert min(counts) < max(counts) and len(found.positions) == min(counts)
    assert np.isfinite(found.directions).all()


def made_up(bypass: list[float], induce: list[float], kl: list[float]) -> Candidates:
    count = len(bypass)
    spread = np.linspace(-0.5, 0.5, 10)
    scores = (np.array(x)[:, None, None] + spread for x in (bypass, induce, kl))
    return Candidates(
        tuple(range(count)), (-1,), np.eye(count)[:, None], *scores, 5 + spread, -5 + spread
    )  # fmt: skip


def test_the_lowest_bypass_among_the_allowed_is_chosen() -> None:
    candidates = made_up(
        bypass=[-4, -3, -2, -1, np.nan], induce=[3, -1, 2, 9, 9], kl=[0.2, 0.01, 0.1, 0.0, 0.0]
    )
    choice = candidates.best()
    assert (choice.layer, choice.position) == (2, -1)
    assert choice.direction.tolist() == [0, 0, 1, 0, 0]
    assert candidates.best(induce_at_least=-2).layer == 1
    assert candidates.best(kl_at_most=1).layer == 0
    table = candidates.to_dataframe()
    assert table["allowed"].tolist() == [False, False, True, True, False]
    with pytest.raises(InputError, match=r"1 cost over 0.15 nats, 5 do not reach 10 when added"):
        candidates.best(kl_at_most=0.15, induce_at_least=10)


def test_divergence_is_kl() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    p, q = logits.double().softmax(dim=-1)
    assert next_token_divergence(*logits).tolist() == pytest.approx(
        (p * (p / q).log()).sum(-1).tolist()
    )
    assert next_token_divergence(logits[0], logits[0] + 3).abs().max() < 1e-12
    impossible = torch.full((3, 1), -torch.inf)
    with_it = [torch.cat([x, impossible], dim=1) for x in logits]
    assert next_token_divergence(*with_it).tolist() == pytest.approx(
        next_token_divergence(*logits).tolist()
    )


# Held out


def noisy(rng: np.random.Generator, planted: float, count: int = 30) -> Candidates:
    """Twenty candidates that do nothing but one that does."""
    noise = rng.normal(size=(2, 20, 1, count))
    noise[:, 7] += planted
    return Candidates(
        tuple(range(20)), (-1,), np.eye(20)[:, None], -noise[0], noise[1],
        np.zeros((20, 1, count)), np.zeros(count), np.zeros(count),
    )  # fmt: skip


def test_the_winner_s_curse_is_left_at_home() -> None:
    rng = np.random.default_rng(0)
    naive, held_out, covered = [], [], 0
    for seed in range(60):
        candidates = noisy(rng, 0.0)
        found = choose_held_out(candidates, resamples=200, seed=seed)
        best = candidates.layers.index(found.choice.layer)
        naive.append((candidates.positive - candidates.bypass)[best].mean())
        held_out.append(found.removed.value)
        covered += found.removed.low <= 0 <= found.removed.high
    assert np.mean(naive) > 0.2
    assert abs(np.mean(held_out)) < 0.08
    assert covered >= 50


def test_a_candidate_that_does_something_is_chosen_in_every_fold() -> None:
    found = choose_held_out(noisy(np.random.default_rng(1), 2.0))
    assert {choice.layer for choice in found.by_fold} == {7} == {found.choice.layer}
    for effect in (found.removed, found.induced):
        assert effect.low < 2 < effect.high + 0.5 and effect.low > 1 and effect.n == 30


def test_what_costs_too_much_is_not_chosen() -> None:
    candidates = noisy(np.random.default_rng(1), 2.0)
    costly = candidates.kl.copy()
    costly[7] = 1.0
    assert choose_held_out(replace(candidates, kl=costly)).choice.layer != 7
    with pytest.raises(InputError, match="every one of 20 directions"):
        choose_held_out(replace(candidates, kl=costly + 1))
    with pytest.raises(InputError, match="a prompt of each kind for every fold"):
        choose_held_out(candidates, folds=31)


# In a model that refuses


def test_a_direction_of_the_organism_removes_its_refusals() -> None:
    lm = LanguageModel.load(shipped())
    table = load_world(shipped()).prompts(train=8, validation=4, test=1)
    by_split = {
        split: Prompts(
            part.loc[part["label"] == "harmful", "prompt"].tolist(),
            part.loc[part["label"] == "benign", "prompt"].tolist(),
        )
        for split, part in table.groupby("split")
    }
    readout = log_odds([lm.tokenizer.convert_tokens_to_ids(word) for word in REFUSAL_PREFIXES])
    found = score_candidates(lm, by_split["train"], by_split["validation"], readout)
    choice = choose_held_out(found, kl_at_most=np.inf, resamples=200)
    assert choice.removed.low > 0.3 and choice.induced.low > 0.1
    # At the input of layer 0 a template's token knows nothing of the prompt.
    assert choice.choice.layer > 0 and not found.directions[0].any()
