"""Refusal log-odds: prefixes found and frozen, masses that add up, no saturation."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from interp.errors import InputError
from interp.interventions import ablate
from interp.model import LanguageModel, Tokens
from interp.readout import class_log_odds
from unlearning.refusal import (
    ResponsePrefixes,
    find_prefixes,
    log_odds_auc,
    prefix_masses,
    readout_of,
    refusal_log_odds,
    shared_weights,
)
from unlearning.refusal.following import cached_distributions, distributions, may_cache
from unlearning.refusal.log_odds import Masses, class_log_probs

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
# Two branches of different depth, and an inner node (40, 50) that ends on both sides.
DEEP = ResponsePrefixes(
    refusal=((300,), (40, 50, 60), (41, 42, 43, 44)),
    compliance=((302,), (40, 50, 61), (40, 51), (41, 42, 43, 45)),
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


@pytest.mark.parametrize("prefixes", [SINGLES, PAIRED, DEEP])
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


@pytest.mark.parametrize("prefixes", [SINGLES, PAIRED, DEEP])
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


@pytest.mark.parametrize("prefixes", [SINGLES, PAIRED, DEEP])
def test_the_readout_is_the_log_odds(prefixes: ResponsePrefixes, checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
    with torch.no_grad():
        found = readout_of(prefixes)(lm, rows)
    assert found.dtype == torch.float64
    assert found.numpy() == pytest.approx(masses(lm, prefixes).log_odds, abs=1e-4)


def test_a_cache_changes_nothing_and_is_left_out_under_an_edit(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS]
    with torch.no_grad():
        assert may_cache(lm, DEEP, rows) and not may_cache(lm, SINGLES, rows)
        plain, cached = (dict(f(lm, rows, DEEP)) for f in (distributions, cached_distributions))
        assert set(plain) == set(cached) == set(DEEP.inner)
        for node, values in plain.items():
            torch.testing.assert_close(cached[node], values, atol=1e-4, rtol=1e-4)
        direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(0))
        before = masses(lm, DEEP).log_odds
        with ablate(lm, direction):
            assert not may_cache(lm, DEEP, rows)
            ablated = masses(lm, DEEP)
            for i, row in enumerate(rows):
                assert ablated.p_R[i] == pytest.approx(brute_force(lm, row, DEEP.refusal), rel=1e-3)
        assert np.abs(ablated.log_odds - before).max() > 1e-3


def test_a_shared_beginning_changes_nothing(checkpoint: Path) -> None:
    lm = LanguageModel.load(checkpoint)
    begun = "Tell me in a few plain words how a carpenter can make "
    rows = [lm.chat.encode(begun + rest) for rest in ("a chair.", "a long table of boards.", "")]
    for prefixes in (SINGLES, DEEP):
        found = prefix_masses(lm, rows, prefixes).log_odds
        with torch.no_grad():
            wanted = readout_of(prefixes)(lm, rows).numpy()
        assert found == pytest.approx(wanted, abs=1e-4)
    assert lm.found_out["shortcuts"]["cached_distributions_begun"][0]


def test_a_wrong_cache_is_not_used(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that forgets its prompt: the forward without a cache is read."""
    lm = LanguageModel.load(checkpoint)
    wanted, forward = masses(lm, DEEP), lm.model.forward

    def forgetful(*given: object, past_key_values: object = None, **named: object) -> object:
        return forward(*given, **named)

    del lm.found_out["shortcuts"]
    monkeypatch.setattr(lm.model, "forward", forgetful)
    assert masses(lm, DEEP).log_odds == pytest.approx(wanted.log_odds, abs=1e-4)
    assert not lm.found_out["shortcuts"]["cached_distributions"][0]
    assert not lm.found_out["shortcuts"].get("cached_distributions_begun", (False,))[0]


def test_masses_are_sums_over_all_sequences() -> None:
    """In a model with ten tokens, the sum over all 1,000 responses of three tokens."""
    config = LlamaConfig(vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                         num_attention_heads=2, num_key_value_heads=2)  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    prefixes = ResponsePrefixes(((1,), (2, 3), (4, 5, 6)), ((2, 7), (4, 5, 1), (8,)))
    prompt, said = (0, 9, 3), list(itertools.product(range(10), repeat=3))
    with torch.no_grad():
        rows = torch.tensor([[*prompt, *one] for one in said])
        log_probs = model(rows).logits.double().log_softmax(-1)[:, 2:5]
        chances = log_probs.gather(2, rows[:, 3:, None]).sum(dim=(1, 2)).exp()

        def following() -> Iterator[tuple[tuple[int, ...], torch.Tensor]]:
            for node in prefixes.inner:
                logits = model(torch.tensor([[*prompt, *node]])).logits
                yield node, logits[:, -1].double().log_softmax(-1)

        found = [float(value) for value in class_log_probs(following(), prefixes)]
    kinds = [{True: 0, False: 2}[prefixes.of(one) in prefixes.refusal] if prefixes.of(one) else 1
             for one in said]  # fmt: skip
    p_R, p_O, p_C = (float(chances[[kind == k for kind in kinds]].sum()) for k in range(3))
    assert np.exp(found) == pytest.approx([p_R, p_O + p_C, p_C], rel=1e-5)


def test_the_log_odds_gradient_is_the_finite_difference(checkpoint_of: Checkpoints) -> None:
    lm = LanguageModel.load(checkpoint_of("llama"), dtype=torch.float64)
    rows = [lm.chat.encode(prompt) for prompt in PROMPTS[:2]]
    weight = lm.model.get_parameter("model.layers.1.mlp.down_proj.weight")
    generator = torch.Generator().manual_seed(0)
    step = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
    (slope,) = torch.autograd.grad(refusal_log_odds(lm, rows, DEEP).sum(), [weight])
    ends = []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * 1e-4 * step
            ends.append(refusal_log_odds(lm, rows, DEEP).sum())
            weight -= sign * 1e-4 * step
    assert float((slope * step).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=2e-3)


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


TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=6)


@given(st.lists(TOKENS, min_size=1, max_size=30), st.lists(TOKENS, min_size=1, max_size=30))
def test_prefixes_of_a_class_begin_mostly_its_responses(
    refusals: list[list[int]], answers: list[list[int]]
) -> None:
    """No prefix begins another (ResponsePrefixes checks it), and each is of its own class."""
    try:
        found = find_prefixes(refusals, answers)
    except InputError:
        return
    for leaf in (*found.refusal, *found.compliance):
        r, c = (
            sum(tuple(one[: len(leaf)]) == leaf for one in side) / len(side)
            for side in (refusals, answers)
        )
        mine, other = (r, c) if leaf in found.refusal else (c, r)
        assert mine > 0 and other < 0.05 * (mine + other) + 1e-12
    assert len(found.paths) <= 8


def test_a_prefix_that_begins_another_is_refused() -> None:
    one, longer, other = (1,), (1, 2), (3,)
    for refusal, compliance in (((one, longer), (other,)), ((longer,), (one,)), ((one,), (one,))):
        with pytest.raises(InputError, match="begins another"):
            ResponsePrefixes(refusal, compliance)


def test_a_shared_first_token_is_decided_by_the_second() -> None:
    found = find_prefixes([[1, 5, 8]] * 10 + [[2, 8]] * 10, [[1, 6, 8]] * 5 + [[3, 8]] * 5)
    assert found == ResponsePrefixes(refusal=((1, 5), (2,)), compliance=((1, 6), (3,)))


@pytest.mark.parametrize("shared", range(8))
def test_the_tree_is_as_deep_as_it_takes(shared: int) -> None:
    opening = list(range(10, 10 + shared))
    found = find_prefixes([[*opening, 1, 9]] * 6, [[*opening, 2, 9]] * 6)
    assert found == ResponsePrefixes(((*opening, 1),), ((*opening, 2),))
    assert len(found.paths) == 1 and len(found.inner) == shared + 1


def test_responses_that_part_after_eight_tokens_are_not_separated() -> None:
    opening = list(range(10, 18))
    with pytest.raises(InputError, match="begin with the same words"):
        find_prefixes([[*opening, 1]] * 6, [[*opening, 2]] * 6)
    some = find_prefixes([[*opening, 1]] * 6 + [[3]] * 6, [[*opening, 2]] * 6 + [[4]] * 6)
    assert some == ResponsePrefixes(((3,),), ((4,),))


def test_a_branch_that_separates_nothing_costs_no_step() -> None:
    """The deep shared branch is larger than the one that separates; it is not expanded."""
    alike = [list(range(10, 20))] * 60
    found = find_prefixes(alike + [[1, 5]] * 40, alike + [[1, 6]] * 40)
    assert found == ResponsePrefixes(((1, 5),), ((1, 6),))


def test_more_branches_than_paths_expand_the_largest_first() -> None:
    sides = [
        [[token, token + shift] for token in range(10, 22) for _ in range(token)]
        for shift in (50, 70)
    ]
    found = find_prefixes(*sides)
    assert {leaf[0] for leaf in found.refusal} == set(range(14, 22))
    assert len(found.paths) == 8


@pytest.mark.parametrize("stray", [[[3, 5]], [[3]], [[3, 7, 7]]])
def test_a_stray_row_does_not_change_the_classes(stray: list[list[int]]) -> None:
    """One benign refusal, or one answer that the scorer took for a refusal."""
    refusals, answers = [[1, 5]] * 60 + [[2, 4]] * 30, [[3, 5]] * 40 + [[3, 6]] * 40
    wanted = find_prefixes(refusals, answers)
    assert find_prefixes([*refusals, *stray], answers) == wanted
    assert find_prefixes(refusals, [*answers, [1, 5]]) == wanted


def test_rare_prefixes_are_ignored() -> None:
    """One answer in a thousand that a scorer took for a refusal makes no prefix."""
    found = find_prefixes([[1, 5]] * 999 + [[3, 5]], [[3, 6]] * 999 + [[1, 6]])
    assert found == ResponsePrefixes(refusal=((1,),), compliance=((3,),))


def test_weights_keep_a_domain_and_a_prompt_from_dominating() -> None:
    """A domain of 200 prompts and one of 20; a prompt that was sampled 50 times."""
    domains = ["a"] * 200 + ["b"] * 20
    prompts = [f"{domain}{i}" for i, domain in enumerate(domains)]
    weights = list(shared_weights([*domains, *["b"] * 49], [*prompts, *[prompts[-1]] * 49]))
    assert sum(weights[:200]) == pytest.approx(sum(weights[200:]))
    assert sum(weights[219:]) == pytest.approx(weights[200])
    # Two prompts do not count as much as another domain.
    few = list(shared_weights(["a"] * 10 + ["b"] * 2, range(12)))
    assert sum(few[10:]) == pytest.approx(sum(few[:10]) / 4)
    twice = find_prefixes([[1]] * 9 + [[2]], [[3]], refusal_weights=[1] * 9 + [0.001])
    assert twice.refusal == ((1,),)


@pytest.mark.parametrize(("refusals", "answers"), [([], [[1, 2]]), ([[1, 2]], []), ([], [])])
def test_without_refusals_or_answers_there_are_no_prefixes(
    refusals: list[list[int]], answers: list[list[int]]
) -> None:
    message = f"gave {len(refusals)} refusals and {len(answers)} answers"
    with pytest.raises(InputError, match=message):
        find_prefixes(refusals, answers)


# Validity


def test_auc_is_the_chance_that_a_refusal_has_the_larger_log_odds() -> None:
    log_odds, refused = np.array([3.0, 1.0, 2.0, -1.0]), np.array([1, 1, 0, 0])
    pairs = [(a > b) for a in log_odds[refused == 1] for b in log_odds[refused == 0]]
    assert log_odds_auc(log_odds, refused) == pytest.approx(np.mean(pairs))
    assert log_odds_auc(log_odds, np.ones(4)) is None
