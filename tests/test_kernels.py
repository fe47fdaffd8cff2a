"""Kernels: what a small step on one domain does to another, measured by taking it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from analyses.predict import PREDICTORS, Evidence
from analyses.predict.gradients import (
    Gradients,
    Scalar,
    mean_gradients,
    prompt_gradients,
    read_prompts,
)
from analyses.predict.products import ProductsWith, products_of
from interp.activations import collect
from interp.errors import InputError
from interp.model import LanguageModel, Tokens
from interp.readout import log_odds
from unlearning.refusal import ResponsePrefixes, refusal_log_odds
from unlearning.training import TrainingSettings, prepare_in_place, unmoved_at_first

PROMPTS = {
    "one": [f"What is the colour of {thing}?" for thing in ("grass", "snow", "coal", "rust")],
    "two": [f"Name a bird that can {verb}." for verb in ("swim", "dive", "run", "sing")],
}
READOUT = log_odds([5, 17, 40])
# Two paths of inner nodes, so the readout needs two forwards.
DEEP = ResponsePrefixes(((5,), (7, 9), (11, 13, 17)), ((6,), (7, 8)))


def score(lm: LanguageModel, rows: Sequence[Tokens]) -> Tensor:
    return READOUT(lm, rows)


def rows_of(lm: LanguageModel) -> dict[str, list[Tokens]]:
    return {name: [lm.chat.encode(text) for text in texts] for name, texts in PROMPTS.items()}


def gradients_of(lm: LanguageModel, groups: int = 4) -> dict[str, Gradients]:
    return {d: mean_gradients(lm, rows, score, groups=groups) for d, rows in rows_of(lm).items()}


@pytest.fixture(params=["projections", "lora"])
def lm(request: pytest.FixtureRequest, checkpoint_of: Callable[[str], Path]) -> LanguageModel:
    settings = TrainingSettings(trained=request.param, lora_rank=4, lora_alpha=4)
    prepared = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)
    if request.param == "lora":  # at B = 0 only B has a gradient; elsewhere both do
        for name, parameter in prepared.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02, generator=torch.manual_seed(0))
    return prepared


def test_the_kernel_is_what_a_small_step_does(lm: LanguageModel) -> None:
    """One step down a's gradient lowers b's score by rate × K[a,b], to first order."""
    found = gradients_of(lm)
    whole = {d: _mean(gradients) for d, gradients in found.items()}
    rate = 1e-3 / sum(float((g**2).sum()) for g in whole["one"].values())
    rows = rows_of(lm)
    with torch.no_grad():
        before = {d: float(score(lm, rows[d]).mean()) for d in rows}
        for name, parameter in lm.model.named_parameters():
            if parameter.requires_grad:
                parameter -= rate * whole["one"][name].to(parameter.dtype)
        after = {d: float(score(lm, rows[d]).mean()) for d in rows}
    for domain in rows:
        expected = sum(float((whole["one"][n] * whole[domain][n]).sum()) for n in whole["one"])
        assert (before[domain] - after[domain]) / rate == pytest.approx(expected, rel=0.05)


def test_parts_add_up_and_the_two_sides_agree(lm: LanguageModel) -> None:
    found = gradients_of(lm)
    products = products_of(found, found)
    whole = products.kernel().values
    parts = [
        products.kernel(within=lambda name, layer=layer: f".{layer}." in name).values  # type: ignore[misc]
        for layer in range(lm.n_layers)
    ]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(whole, whole.T, rtol=1e-6)


def test_the_model_is_left_as_it_was(lm: LanguageModel) -> None:
    before = {n: p.clone() for n, p in lm.model.named_parameters()}
    lm.model.train()
    gradients_of(lm)
    assert lm.model.training
    for name, parameter in lm.model.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, before[name])


def test_gradients_do_not_depend_on_the_batch(lm: LanguageModel) -> None:
    rows = rows_of(lm)["one"]
    one, other = (mean_gradients(lm, rows, score, groups=2, batch_size=n) for n in (1, 4))
    for name in one.of:
        torch.testing.assert_close(one.of[name], other.of[name], rtol=1e-4, atol=1e-6)


def test_answers_to_one_prompt_are_no_new_prompts(lm: LanguageModel) -> None:
    """Sampled refusals repeat prompts: they share a group, so the jackknife does not shrink."""
    rows = rows_of(lm)["one"]
    once = mean_gradients(lm, rows, score)
    thrice = mean_gradients(lm, rows * 3, score, prompts=[*range(4)] * 3)
    for name in once.of:
        torch.testing.assert_close(once.of[name], thrice.of[name], rtol=1e-4, atol=1e-6)
    with pytest.raises(InputError, match="3 prompts cannot make 4 groups"):
        mean_gradients(lm, rows * 3, score, prompts=[0, 1, 2] * 4)


@pytest.mark.parametrize("arranged", ["answered first", "rows repeated"])
def test_a_prompt_s_refusal_is_never_multiplied_with_its_own_log_odds(
    checkpoint_of: Callable[[str], Path], arranged: str
) -> None:
    """One numbering of prompts for both: kernels ignore where the answered prompt stands."""
    settings = TrainingSettings(trained="lora", lora_rank=4, lora_alpha=4)

    def load() -> LanguageModel:
        return LanguageModel.load(checkpoint_of("qwen2"))

    texts = [*PROMPTS["one"], *PROMPTS["two"], "What is rain?"]
    rows = pd.DataFrame({"prompt": texts, "domain": "safety", "label": "harmful", "response": "no"})
    rows["class"] = ["refusal"] * 8 + ["answer"]
    rows = rows.assign(ids=[[5, 9, 11]] * 9, id=texts)
    moved = rows.iloc[[8, *range(8)]] if arranged == "answered first" else pd.concat([rows, rows])

    def kernels(responses: pd.DataFrame) -> np.ndarray:
        refused = {"safety": responses[responses["class"] == "refusal"]}
        evidence = Evidence(
            load(), lambda: prepare_in_place(load(), settings), responses, DEEP, refused
        )
        found = [
            evidence.objective_products.kernel(),
            evidence.objective_kernel_of_adapters,
            evidence.objective_kernel_of_all_weights,
        ]
        return np.array([one.left_out[:, 0, 0] for one in found])

    np.testing.assert_allclose(kernels(moved), kernels(rows), rtol=1e-4)


def test_domains_with_few_prompts_are_undefined_and_end_no_prediction(
    checkpoint_of: Callable[[str], Path],
) -> None:
    """Bias has three harmful prompts, and privacy no benign one."""
    settings = TrainingSettings(trained="lora", lora_rank=4, lora_alpha=4)

    def load() -> LanguageModel:
        return LanguageModel.load(checkpoint_of("qwen2"))

    counts = {"safety": (8, 8), "bias": (3, 8), "privacy": (8, 0)}
    rows = pd.DataFrame(
        (f"Tell me {label} {domain} {i}", domain, label, "train", "no", [5, 9, 11])
        for domain, both in counts.items()
        for label, count in zip(("harmful", "benign"), both, strict=True)
        for i in range(count)
    )
    rows.columns = ["prompt", "domain", "label", "split", "response", "ids"]
    rows = rows.assign(id=rows["prompt"], kind=None)
    rows["class"] = np.where(rows["label"] == "harmful", "refusal", "answer")
    refused = {d: rows[(rows["domain"] == d) & (rows["label"] == "harmful")] for d in counts}
    evidence = Evidence(load(), lambda: prepare_in_place(load(), settings), rows, DEEP, refused)
    safety, bias, privacy = (evidence.domains.index(domain) for domain in counts)
    for predictor in PREDICTORS.values():
        for values in predictor.predict(evidence).values():
            assert values.shape == (3, 3)
    for kernel in (
        evidence.objective_products.kernel(),
        evidence.objective_kernel_of_adapters,
        evidence.objective_kernel_of_all_weights,
    ):
        known = np.isfinite(kernel.values)
        assert known[np.ix_([safety, privacy], [safety, privacy])].all() and known.sum() == 4
        assert not known[bias].any() and not known[:, bias].any()
    assert set(evidence.contrasts) == {"safety"}
    with pytest.raises(InputError, match="privacy: 8 harmful and 0 benign training prompts"):
        evidence.contrast_of("privacy")
    with pytest.raises(InputError, match="bias: 3 different harmful training prompts"):
        evidence.require_target("bias")


@pytest.mark.parametrize("readout", [score, partial(refusal_log_odds, prefixes=DEEP)])
def test_the_gradient_of_a_state_is_the_change_that_it_makes(
    checkpoint_of: Callable[[str], Path], readout: Scalar
) -> None:
    """At the last prompt token, in all forwards of a readout that needs several."""
    lm = prepare_in_place(
        LanguageModel.load(checkpoint_of("llama")), TrainingSettings(trained="projections")
    )
    rows = rows_of(lm)["one"][:1]
    found = read_prompts(lm, rows, readout).by_state
    direction = torch.linspace(-1, 1, lm.d_model)
    step, last = 2e-3 / float(direction.norm()), len(rows[0]) - 1
    for layer, module in enumerate(lm.layers):

        def moved(by: float, module: torch.nn.Module = module) -> float:
            def push(_module: object, _inputs: object, output: Tensor) -> Tensor:
                at = torch.arange(output.shape[1])[:, None] == last
                return output + at * by * direction

            handle = module.register_forward_hook(push)
            with torch.no_grad():
                value = float(readout(lm, rows).mean())
            handle.remove()
            return value

        expected = float(found[layer] @ direction.numpy())
        assert (moved(step) - moved(-step)) / (2 * step) == pytest.approx(expected, rel=0.03)


def test_one_pass_over_prompts_reads_all_that_single_ones_read(lm: LanguageModel) -> None:
    """Gradients, log-odds, states and their gradients, whatever batches the prompts are in."""
    rows = rows_of(lm)["one"]
    found, reads = prompt_gradients(lm, rows, score, groups=2, batch_size=1)
    for name, gradient in mean_gradients(lm, rows, score, groups=2).of.items():
        torch.testing.assert_close(found.of[name], gradient, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        np.testing.assert_allclose(reads.values, score(lm, rows).numpy(), rtol=1e-4)
    np.testing.assert_allclose(reads.states, collect(lm, rows).states, rtol=1e-3, atol=1e-4)
    together = read_prompts(lm, rows, score).by_state
    np.testing.assert_allclose(reads.by_state, together, rtol=1e-3, atol=1e-6)


def test_nothing_is_held_of_parameters_without_a_gradient(
    checkpoint_of: Callable[[str], Path],
) -> None:
    """LoRA's A has none while B is 0."""
    settings = TrainingSettings(trained="lora", lora_rank=4, lora_alpha=4)
    lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)
    names = {n for n, p in lm.model.named_parameters() if p.requires_grad and "lora_B" in n}
    assert set(gradients_of(lm)["one"].of) == names


def test_only_what_certainly_stays_is_left_out(checkpoint_of: Callable[[str], Path]) -> None:
    """A's gradient is 0 where B is 0, and nowhere else."""
    settings = TrainingSettings(trained="lora", lora_rank=4, lora_alpha=4)
    lm = prepare_in_place(LanguageModel.load(checkpoint_of("qwen2")), settings)
    named = {n: p for n, p in lm.model.named_parameters() if p.requires_grad}
    moved = next(name for name in named if "lora_B" in name)
    torch.nn.init.normal_(named[moved], std=0.02, generator=torch.manual_seed(0))
    slopes = torch.autograd.grad(score(lm, rows_of(lm)["one"]).sum(), list(named.values()))
    still = {name for name, slope in zip(named, slopes, strict=True) if not slope.any()}
    assert unmoved_at_first(lm) == still
    assert {n for n in named if "lora_A" in n} - still == {moved.replace("lora_B", "lora_A")}


def test_targets_that_pass_by_give_the_rows_of_the_sources() -> None:
    rng = np.random.default_rng(5)
    means = {domain: rng.normal(size=30) for domain in "abc"}
    sources, targets = (planted(rng, means, noise=0.1) for _ in range(2))
    whole, found = products_of(sources, targets), ProductsWith({"b": sources["b"]}, "abc")
    for domain in "cb":  # in any order; one is no target
        found.add(domain, targets[domain])
    for adam in (False, True):
        row, expected = found.products().kernel(adam=adam), whole.kernel(adam=adam)
        assert row.values[1, 1:] == pytest.approx(expected.values[1, 1:])
        assert row.standard_error[1, 1:] == pytest.approx(expected.standard_error[1, 1:])
        assert np.isnan(row.values[[0, 2]]).all() and np.isnan(row.values[:, 0]).all()
        assert row.relative().values[1, 1:] == pytest.approx(expected.relative().values[1, 1:])
    assert found.products().cosine()[1, 1:] == pytest.approx(whole.cosine()[1, 1:])


def planted(
    rng: np.random.Generator, means: Mapping[str, np.ndarray], *, noise: float, groups: int = 8
) -> dict[str, Gradients]:
    return {
        d: Gradients({"w": torch.tensor(m + noise * rng.normal(size=(groups, len(m)))).float()})
        for d, m in means.items()
    }


def test_noise_does_not_multiply_with_itself() -> None:
    """Cross-fitted lengths are unbiased, so the cosine of noisy gradients is the planted one."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400))
    means = {"a": a, "b": 0.6 * a + 0.8 * b}
    truth = a @ means["b"] / np.linalg.norm(a) / np.linalg.norm(means["b"])
    found = [
        products_of(s, s).cosine()[0, 1]
        for s in (planted(rng, means, noise=2.0) for _ in range(50))
    ]
    assert np.mean(found) == pytest.approx(truth, abs=0.03)


def test_jackknife_errors_are_those_of_repeated_draws() -> None:
    rng = np.random.default_rng(1)
    means = {"a": rng.normal(size=200), "b": rng.normal(size=200)}
    drawn = [
        products_of(s, s).kernel() for s in (planted(rng, means, noise=1.0) for _ in range(200))
    ]
    spread = np.std([k.values for k in drawn], axis=0)
    errors = np.mean([k.standard_error for k in drawn], axis=0)
    np.testing.assert_allclose(errors, spread, rtol=0.3)


def test_a_source_that_acts_on_nothing_is_not_divided_by() -> None:
    rng = np.random.default_rng(2)
    means = {"a": rng.normal(size=300), "nothing": np.zeros(300)}
    undefined = 0
    for _ in range(50):
        found = planted(rng, means, noise=1.0)
        kernel = products_of(found, found).kernel()
        relative = kernel.relative()
        # Nothing is divided by what acts on nothing, but what acts on it is.
        assert relative.values[0] == pytest.approx(kernel.values[0] / kernel.values[0, 0])
        undefined += bool(np.isnan(relative.values[1]).all())
    assert undefined >= 44


def test_relative_kernels_divide_every_row_by_what_its_source_does_to_itself() -> None:
    """K[a,b]/K[a,a] with its jackknife errors, also where sources and targets differ in length."""
    rng = np.random.default_rng(4)
    bases = rng.normal(size=(3, 200))
    sources = planted(rng, {"a": bases[0], "b": 3 * bases[1], "c": bases[2]}, noise=0.3)
    mixed = {"a": bases[0] + bases[1], "b": 5 * bases[1] - bases[2], "c": bases[2] + bases[0] / 2}
    kernel = products_of(sources, planted(rng, mixed, noise=0.3)).kernel()
    relative = kernel.relative()
    assert abs(kernel.values[1, 0]) > 10 * abs(kernel.values[0, 1])  # rows are not columns
    for a in range(3):
        for b in range(3):
            divided = kernel.left_out[:, a, b] / kernel.left_out[:, a, a]
            error = np.sqrt(7 / 8 * ((divided - divided.mean()) ** 2).sum())
            assert relative.values[a, b] == pytest.approx(kernel.values[a, b] / kernel.values[a, a])
            assert relative.standard_error[a, b] == pytest.approx(error, abs=1e-12)
    assert relative.values[[0, 1, 2], [0, 1, 2]] == pytest.approx(1)
    for a, name in enumerate("abc"):
        expected = [bases[a] @ target * (3 if name == "b" else 1) for target in mixed.values()]
        assert kernel.values[a] == pytest.approx(expected, abs=60)


def test_adam_divides_by_each_parameters_own_size() -> None:
    """A parameter with gradients a thousand times larger counts as one step all the same."""
    rng = np.random.default_rng(3)
    large, small = 1000 * (1 + rng.normal(size=50) ** 2), 1 + rng.normal(size=50) ** 2
    found = planted(rng, {"a": np.concatenate([large, small])}, noise=0.0)
    assert float(products_of(found, found).kernel(adam=True).values[0, 0]) == pytest.approx(
        float(large.sum() + small.sum()), rel=1e-4
    )


def test_too_few_prompts_or_groups_are_refused(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match="4 prompts cannot make 8 groups"):
        mean_gradients(lm, rows_of(lm)["one"], score, groups=8)
    with pytest.raises(InputError, match="2 groups"):
        products_of(*[gradients_of(lm, groups=2)] * 2).kernel()


def _mean(gradients: Gradients) -> dict[str, Tensor]:
    return {name: g.mean(dim=0) for name, g in gradients.of.items()}
