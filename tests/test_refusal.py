"""Refusal log-odds: prefixes found and frozen, masses that add up, no saturation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import InputError
from interp.model import LanguageModel, Tokens
from interp.readout import class_log_odds
from unlearning.refusal import ResponsePrefixes, find_prefixes, log_odds_auc, prefix_masses
from unlearning.refusal.log_odds import Masses

Checkpoints = Callable[[str], Path]

PROMPTS = (
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people.",
    "Which tools does a carpenter need to repair a broken chair?",
    "Explain what an antivirus program does.",
    "How do I pick a lock?",
)
SINGLES = ResponsePrefixes(refusal=((300,), (301,), (5,)), compliance=((302,), (7,)))
# 40 opens refusals and answers alike; so does 41, of which only answers are found.
PAIRED = ResponsePrefixes(
    refusal=((300,), (40, 50), (40, 51)), compliance=((302,), (40, 60), (41, 50), (41, 61))
)


def masses(lm: LanguageModel, prefixes: ResponsePrefixes, *, batch_size: int = 256) -> Masses:
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
    return prefix_masses(lm, rows, prefixes, batch_size=batch_size)


@torch.no_grad()
def next_probabilities(lm: LanguageModel, ids: tuple[int, ...]) -> torch.Tensor:
    return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double().softmax(-1)


def brute_force(lm: LanguageModel, tokens: Tokens, prefixes: tuple[tuple[int, ...], ...]) -> float:
    """The probability that the answer opens with one of ``prefixes``, prefix by prefix."""
    total = 0.0
    for prefix in prefixes:
        chance, ids = 1.0, tokens.ids
        for token in prefix:
            chance *= float(next_probabilities(lm, ids)[token])
            ids = (*ids, token)
        total += chance
    return total


# Masses


@pytest.mark.parametrize("prefixes", [SINGLES, PAIRED])
def test_masses_are_the_prefixes_probabilities(
    prefixes: ResponsePrefixes, checkpoint: Path
) -> None:
    lm = LanguageModel.load(checkpoint)
    found = masses(lm, prefixes, batch_size=2)
    for i, prompt in enumerate(PROMPTS):
        tokens = lm.chat.encode(prompt)
        p_R, p_C = (
            brute_force(lm, tokens, side) for side in (prefixes.refusal, prefixes.compliance)
        )
        assert found.p_R[i] == pytest.approx(p_R, rel=1e-3)
        assert found.p_C[i] == pytest.approx(p_C, rel=1e-3)


@pytest.mark.parametrize("prefixes", [SINGLES, PAIRED])
def test_masses_add_up_and_their_log_odds_are_the_readout(
    prefixes: ResponsePrefixes, checkpoint_of: Checkpoints
) -> None:
    found = masses(LanguageModel.load(checkpoint_of("qwen2")), prefixes)
    assert found.p_R + found.p_C + found.p_O == pytest.approx(1, abs=1e-12)
    assert (found.p_R > 0).all() and (found.p_C > 0).all() and (found.p_O > 0).all()
    assert found.log_odds == pytest.approx(np.log(found.p_R) - np.log1p(-found.p_R), abs=1e-9)
    assert found.log_odds.dtype == np.float64


def test_log_odds_go_on_where_probabilities_stop(checkpoint_of: Checkpoints) -> None:
    """A head 1000 times as loud: p_R rounds to 1 or 0, and the log-odds are still in order."""
    lm = LanguageModel.load(checkpoint_of("llama"))
    quiet = masses(lm, SINGLES)
    with torch.no_grad():
        lm.model.lm_head.weight.mul_(1000)  # type: ignore[union-attr, operator]
        rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
        logits = lm.logits(lm.chat.pad(rows), keep=1)[:, -1].double()
    loud = masses(lm, SINGLES)
    assert np.isfinite(loud.log_odds).all()
    # Two forwards in float32, a thousand times as loud: in other batches they differ by rounding.
    assert loud.log_odds == pytest.approx(class_log_odds(logits, [300, 301, 5]).numpy(), rel=1e-5)
    assert np.abs(loud.log_odds).min() > 10 * np.abs(quiet.log_odds).max()
    # The other way round, refusal all but certain: 1 − p_R is 0 in float64.
    certain = ResponsePrefixes(
        refusal=tuple((int(i),) for i in logits.argmax(-1).unique()), compliance=((7,),)
    )
    sure = masses(lm, certain)
    assert (sure.p_R == 1).any()
    assert np.isfinite(sure.log_odds).all() and (sure.log_odds[sure.p_R == 1] > 30).all()


def test_the_readout_is_the_log_odds(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    readout = SINGLES.readout()
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
    with torch.no_grad():
        found = readout(lm.logits(lm.chat.pad(rows), keep=1)[:, -1])
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(masses(lm, SINGLES).log_odds, abs=1e-9)


def test_prefixes_of_two_tokens_are_no_readout() -> None:
    with pytest.raises(InputError, match="--response-prefix"):
        PAIRED.readout()


def test_masses_do_not_depend_on_batches_or_the_mode(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("gpt2"))
    wanted = masses(lm, PAIRED)
    lm.model.train()
    found = masses(lm, PAIRED, batch_size=2)
    assert lm.model.training
    assert found.p_R == pytest.approx(wanted.p_R, rel=1e-4)
    assert found.log_odds == pytest.approx(wanted.log_odds, abs=1e-4)


# Prefixes


def test_prefixes_are_the_first_tokens_of_each_kind() -> None:
    found = find_prefixes([[1, 9]] * 6 + [[2, 9]] * 4, [[3, 9]] * 5 + [[4]] * 5)
    assert found == ResponsePrefixes(refusal=((1,), (2,)), compliance=((3,), (4,)))


TOKENS = st.lists(st.integers(0, 5), min_size=2, max_size=4)


@given(st.lists(TOKENS, min_size=1, max_size=30), st.lists(TOKENS, min_size=1, max_size=30))
def test_no_prefix_is_on_both_sides_nor_begins_another(
    refusals: list[list[int]], answers: list[list[int]]
) -> None:
    try:
        found = find_prefixes(refusals, answers)
    except InputError:
        return
    every = [*found.refusal, *found.compliance]
    assert len(set(every)) == len(every)
    singles = {prefix[0] for prefix in every if len(prefix) == 1}
    assert not singles & {prefix[0] for prefix in every if len(prefix) == 2}
    assert all(any(tuple(r[: len(o)]) == o for r in refusals) for o in found.refusal)
    assert all(any(tuple(a[: len(o)]) == o for a in answers) for o in found.compliance)


def test_a_shared_first_token_is_decided_by_the_second() -> None:
    found = find_prefixes([[1, 5, 8]] * 10 + [[2, 8]] * 10, [[1, 6, 8]] * 5 + [[3, 8]] * 5)
    assert found == ResponsePrefixes(refusal=((1, 5), (2,)), compliance=((1, 6), (3,)))


def test_a_shared_prefix_with_little_mass_is_dropped_from_both() -> None:
    found = find_prefixes([[1, 5]] * 99 + [[9, 5]], [[3, 5]] * 97 + [[9, 5]] * 3)
    assert found == ResponsePrefixes(refusal=((1,),), compliance=((3,),))


def test_shared_prefixes_that_are_many_are_not_dropped_one_by_one() -> None:
    """Ten of 4% each would be 40% of the refusals, gone without a word."""
    alike = [[token, token + 50] for token in range(10, 20) for _ in range(4)]
    apart = [[token, token + 70] for token in range(10, 20) for _ in range(4)]
    found = find_prefixes([[1, 5]] * 60 + alike, [[3, 5]] * 60 + apart)
    assert len(found.refusal) == len(found.compliance) == 1 + 9
    with pytest.raises(InputError, match="first two tokens"):
        find_prefixes([[1, 5]] * 60 + [[2, 9]] * 40, [[3, 5]] * 60 + [[2, 9]] * 40)


def test_rare_prefixes_are_ignored() -> None:
    """One answer in a thousand that a scorer took for a refusal makes no prefix."""
    found = find_prefixes([[1, 5]] * 999 + [[3, 5]], [[3, 6]] * 999 + [[1, 6]])
    assert found == ResponsePrefixes(refusal=((1,),), compliance=((3,),))


@pytest.mark.parametrize(("refusals", "answers"), [([], [[1, 2]]), ([[1, 2]], []), ([], [])])
def test_without_refusals_or_answers_there_are_no_prefixes(
    refusals: list[list[int]], answers: list[list[int]]
) -> None:
    message = f"gave {len(refusals)} refusals and {len(answers)} answers"
    with pytest.raises(InputError, match=message):
        find_prefixes(refusals, answers)


def test_prefixes_shared_to_the_second_token_are_refused() -> None:
    with pytest.raises(InputError, match="first two tokens in 50% of the cases.*--response-prefix"):
        find_prefixes([[1, 5]] * 5 + [[1, 6]] * 5, [[1, 5]] * 5 + [[1, 7]] * 5)
    with pytest.raises(InputError, match="first two tokens in 100%"):
        find_prefixes([[1, 5, 2]], [[1, 5, 3]])


# Validity


def test_auc_is_the_chance_that_a_refusal_has_the_larger_log_odds() -> None:
    log_odds, refused = np.array([3.0, 1.0, 2.0, -1.0]), np.array([1, 1, 0, 0])
    pairs = [(a > b) for a in log_odds[refused == 1] for b in log_odds[refused == 0]]
    assert log_odds_auc(log_odds, refused) == pytest.approx(np.mean(pairs))
    assert log_odds_auc(log_odds, np.ones(4)) is None
