"""Kernels from tokens' inputs and gradients: what stored gradients give, and LoRA's space."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analyses.costs import Reading
from analyses.predict.gradients import mean_gradients
from analyses.predict.products import Kernel, products_of
from analyses.predict.streamed import streamed_kernel
from analyses.predict.traces import Side, Traces, pairwise, products, through_weights
from analyses.study.work import STREAMED, streamed_work
from interp.errors import InputError
from interp.model import LanguageModel, Tokens, linear_weights
from interp.readout import log_odds
from tests.architectures import tiny
from unlearning.losses import response_log_probs
from unlearning.training import TrainingSettings, adapter_inputs, prepare_in_place

GROUPS = 3
READOUT = log_odds([5, 17, 40])
PROMPTS = {
    "one": [f"What is the colour of {thing}?" for thing in ("grass", "snow", "coal", "rust")],
    "two": [f"Name a bird that can {verb} in the sea." for verb in ("swim", "dive", "run")],
}


def answer_log_odds(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    return READOUT(lm, rows)


def twice(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    """A number that takes two forwards, as log-odds with prefixes of two tokens does."""
    return answer_log_odds(lm, rows) + 0.5 * answer_log_odds(
        lm, [Tokens((*r.ids, 9), r.spans) for r in rows]
    )


def log_prob(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    batch = lm.chat.pad(rows, lm.device)
    return response_log_probs(lm.model, lm.inputs(batch), batch.response_mask)[0].sum(dim=-1)


def sides(lm: LanguageModel) -> tuple[Side, Side]:
    asked = {d: [lm.chat.encode(text) for text in texts] for d, texts in PROMPTS.items()}
    answered = {
        d: [lm.chat.encode(text, "I would rather not say.") for text in texts]
        for d, texts in PROMPTS.items()
    }
    return Side(answered, log_prob), Side(asked, twice)


def stored(lm: LanguageModel, sources: Side, targets: Side) -> Kernel:
    found = [
        {d: mean_gradients(lm, rows, s.scalar, groups=GROUPS) for d, rows in s.rows.items()}
        for s in (sources, targets)
    ]
    return products_of(*found).kernel()


def _prompts(times: int) -> dict[str, list[int]]:
    """The number of each row's prompt, where the rows are repeated."""
    return {domain: [*range(len(texts))] * times for domain, texts in PROMPTS.items()}


def same(one: Kernel, other: Kernel) -> None:
    scale = np.abs(one.values).max()
    np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-5 * scale)
    np.testing.assert_allclose(one.left_out, other.left_out, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2", "gpt2"])
def test_it_is_the_kernel_of_stored_gradients(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    """Biases (Qwen2), sliding windows, soft caps and GPT-2's transposed weights included."""
    lm = prepare_in_place(
        LanguageModel.load(checkpoint_of(family)), TrainingSettings(trained="projections")
    )
    expected = stored(lm, *sides(lm))
    trainable = {n for n, p in lm.model.named_parameters() if p.requires_grad}
    same(streamed_kernel(lm, *sides(lm), groups=GROUPS), expected)
    same(streamed_kernel(lm, *sides(lm), groups=GROUPS, layers_at_once=3, batch_size=1), expected)
    twofold = [
        Side({d: [*rows, *rows] for d, rows in s.rows.items()}, s.scalar, _prompts(2))
        for s in sides(lm)
    ]
    same(streamed_kernel(lm, *twofold, groups=GROUPS), expected)
    assert trainable == {n for n, p in lm.model.named_parameters() if p.requires_grad}
    assert all(p.grad is None for p in lm.model.parameters())


def test_the_plan_counts_the_tokens_that_pass_through_the_model(
    checkpoint_of: Callable[[str], Path],
) -> None:
    """All rows once for each layer, without the row on which each layer's traces are checked."""
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    answered, asked = sides(lm)
    linear_weights(lm)  # which takes one forward
    passed = []
    with lm.layers[0].register_forward_hook(lambda _m, _i, out: passed.append(out.numel())):
        streamed_kernel(
            lm, answered, Side(asked.rows, answer_log_odds), groups=GROUPS, batch_size=1
        )
    rows, alone = (
        [len(row) for group in side.rows.values() for row in group] for side in (answered, asked)
    )
    checked = lm.n_layers * min(alone)
    prompts = pd.DataFrame({"split": "train", "label": "harmful"}, index=range(len(rows)))
    prompt = sum(alone) / len(alone)
    reading = Reading(prompt, prompt, sum(rows) / len(rows) - prompt, usual=1.0)
    planned = streamed_work(prompts, reading, lm.n_layers).expected
    assert planned.read / STREAMED == pytest.approx(sum(passed) / lm.d_model - checked)


@pytest.mark.parametrize("trained", ["projections", "lora"])
@pytest.mark.parametrize(
    "kind",
    [
        "fused and shared experts",
        "transposed experts",
        "experts sampled in training",
        "modules that PEFT refuses",
        pytest.param("shared blocks", marks=pytest.mark.slow),
    ],
)
def test_it_is_exact_for_every_linear_weight(kind: str, trained: str) -> None:
    """Also for those that no module multiplies by, that are never called, or called twice."""
    lm = prepare_in_place(tiny(kind), TrainingSettings(trained=trained, lora_rank=2, lora_alpha=3))
    first = adapter_inputs(lm)
    expected = stored(lm, *sides(lm))
    sketch = (lambda place, _: first[place]) if trained == "lora" else None
    base = tiny(kind)
    same(streamed_kernel(base, *sides(base), groups=GROUPS, sketch=sketch), expected)


def test_a_weight_that_is_read_twice_is_noticed(checkpoint_of: Callable[[str], Path]) -> None:
    """A module that also multiplies by its neighbour's weight: the neighbour's trace is not all."""

    def borrowed() -> LanguageModel:
        lm = LanguageModel.load(checkpoint_of("llama"))
        for layer in lm.layers:
            mlp = layer.mlp
            hook = lambda _m, inputs, out, up=mlp.up_proj: out + 0.5 * inputs[0] @ up.weight.T  # noqa: E731
            mlp.gate_proj.register_forward_hook(hook)
        return lm

    prepared = prepare_in_place(borrowed(), TrainingSettings(trained="projections"))
    expected = stored(prepared, *sides(prepared))
    lm = borrowed()
    same(streamed_kernel(lm, *sides(lm), groups=GROUPS), expected)


def test_both_ways_to_the_products_agree_and_a_bias_is_an_input_of_one() -> None:
    generator = torch.Generator().manual_seed(0)

    def traces(tokens: int, units: int) -> Traces:
        inputs, gradients = (torch.randn(tokens, n, generator=generator) for n in (6, 5))
        return Traces(inputs, gradients, torch.arange(tokens) % units)

    a, b = traces(40, 4), traces(30, 3)
    one, other = (way(a, b, (4, 3)) for way in (pairwise, through_weights))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(one, products(a, b, (4, 3)), rtol=1e-4, atol=1e-4)
    biased = pairwise(a.with_bias(), b.with_bias(), (4, 3)) - one
    alone = pairwise(*(replace(side, inputs=torch.ones(len(side.inputs), 1)) for side in (a, b)),
                     (4, 3))  # fmt: skip
    np.testing.assert_allclose(biased, alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_sketch_is_the_kernel_in_lora_s_space(
    family: str, checkpoint_of: Callable[[str], Path]
) -> None:
    settings = TrainingSettings(lora_rank=4, lora_alpha=8)
    adapted = prepare_in_place(LanguageModel.load(checkpoint_of(family)), settings)
    first = adapter_inputs(adapted)
    base = LanguageModel.load(checkpoint_of(family))
    assert {a.shape[0] for a in first.values()} == {4}
    found = streamed_kernel(base, *sides(base), groups=GROUPS, sketch=lambda name, _: first[name])
    same(found, stored(adapted, *sides(adapted)))
    assert not adapter_inputs(base)


def test_over_draws_of_a_lora_s_kernel_becomes_that_of_all_weights(
    checkpoint_of: Callable[[str], Path],
) -> None:
    """Each module weighted by α²/(3 r d_in), and the nearer, the more draws are averaged."""
    lm = LanguageModel.load(checkpoint_of("llama"))
    rank, alpha = 16, 16.0

    def drawn(seed: int) -> Callable[[str, int], Tensor]:
        generator = torch.Generator().manual_seed(seed)

        def a(_name: str, width: int) -> Tensor:  # what PEFT draws: uniform within 1/√width
            return (
                alpha / rank * (2 * torch.rand(rank, width, generator=generator) - 1) / width**0.5
            )

        return a

    def weights(_name: str, width: int) -> Tensor:
        return math.sqrt(alpha**2 / (3 * rank * width)) * torch.eye(width)

    asked = sides(lm)[1]

    def sketched(sketch: Callable[[str, int], Tensor]) -> np.ndarray:
        return streamed_kernel(
            lm, asked, asked, groups=GROUPS, sketch=sketch, layers_at_once=4
        ).values

    whole = sketched(weights)
    draws = [sketched(drawn(seed)) for seed in range(8)]
    errors = [np.linalg.norm(k - whole) for k in draws]
    assert np.linalg.norm(np.mean(draws, axis=0) - whole) < 0.5 * np.mean(errors)
    assert np.linalg.norm(np.mean(draws, axis=0) - whole) < 0.15 * np.linalg.norm(whole)
    assert np.mean(errors) < 0.4 * np.linalg.norm(whole)


def test_too_few_prompts_or_groups_are_refused(checkpoint_of: Callable[[str], Path]) -> None:
    lm = LanguageModel.load(checkpoint_of("qwen2"))
    with pytest.raises(InputError, match="3 prompts of two cannot make 4 groups"):
        streamed_kernel(lm, *sides(lm), groups=4)
    with pytest.raises(InputError, match="2 groups"):
        streamed_kernel(lm, *sides(lm), groups=2)
