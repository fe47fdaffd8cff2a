"""Training: the loss is the mixture's and nothing else's, and only what was chosen is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainerCallback

from interp.chat import Tokens
from interp.errors import InputError, TrainingError
from interp.model import LanguageModel
from tests.checkpoints import save_checkpoint
from unlearning.likelihood import reference_log_probs
from unlearning.mixture import Example, Mixture
from unlearning.parameters import save
from unlearning.settings import TrainingSettings
from unlearning.trainer import prepare, unlearn

Checkpoints = Callable[[str], Path]

PROMPTS = (
    "How do I pick a lock?",
    "Why?",
    "Tell me how to bake bread without yeast, step by step, for four people and a small oven.",
    "Which tools does a carpenter need to repair a broken chair?",
    "Explain what an antivirus program does.",
    "Write the opening of a novel about a family that runs a small hotel by the sea.",
)
RESPONSES = ("I cannot help with that.", "No.", "Sorry, but I will not explain how that is done.")
KEPT = ("Here is a list of the tools.", "It looks through files and compares them.")
# No weight moves and nothing is clipped: what every step's gradient is, with no Adam in between.
STILL = TrainingSettings(
    trained="projections", learning_rate=0.0, batch_size=4, max_steps=4, max_grad_norm=1e9
)
MOVING = replace(STILL, learning_rate=1e-3, max_steps=8, max_grad_norm=1.0)


class Gradients(TrainerCallback):
    """Every optimizer step's gradient, one vector a step."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        trained = [p.grad for p in model.parameters() if p.grad is not None]
        self.steps.append(torch.cat([grad.flatten().clone() for grad in trained]))


def example(lm: LanguageModel, number: int) -> Example:
    response = RESPONSES[number % len(RESPONSES)]
    return Example(str(number), lm.chat.encode(PROMPTS[number % len(PROMPTS)], response))


def retained(lm: LanguageModel) -> Mapping[str, Sequence[Example]]:
    def kept(number: int) -> Example:
        return Example(f"kept {number}", lm.chat.encode(PROMPTS[number], KEPT[number % 2]))

    return {"safety": [kept(1), kept(3), kept(4)], "bias": [kept(0), kept(5)]}


def with_reference(lm: LanguageModel, examples: Sequence[Example]) -> list[Example]:
    found = reference_log_probs(lm, [one.tokens for one in examples])
    return [replace(one, reference=values) for one, values in zip(examples, found, strict=True)]


def forgotten(lm: LanguageModel) -> list[Example]:
    return with_reference(lm, [example(lm, number) for number in range(6)])


def trained(
    lm: LanguageModel, settings: TrainingSettings, folder: Path, *, retain: bool = True
) -> tuple[pd.DataFrame, list[Tensor]]:
    """The log and every step's gradient of a run over six forget examples."""
    gradients = Gradients()
    mixture = Mixture(forgotten(lm), retained(lm) if retain else None, ratio=2, seed=3)
    log = unlearn(lm, mixture, settings, folder=folder, callbacks=[gradients])
    return log, gradients.steps


def log_prob(lm: LanguageModel, tokens: Tokens) -> Tensor:
    """log π(y|x) the plain way: one row, no padding, all the logits."""
    ids = torch.tensor([tokens.ids])
    log_probs = F.log_softmax(lm.model(input_ids=ids).logits.float(), dim=-1)
    span = tokens.spans["response"]
    return sum(log_probs[0, t - 1, tokens.ids[t]] for t in range(span.start, span.stop))


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


# The loss


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gpt2"])
def test_loss_and_gradient_do_not_depend_on_micro_batches_or_padding(
    family: str, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    runs = []
    for micro in (4, 2, 1):
        settings = replace(STILL, micro_batch_size=micro, retain_weight=3.0)
        lm = prepare(LanguageModel.load(checkpoint_of(family)), settings)
        runs.append(trained(lm, settings, tmp_path))
    (log, whole), *others = runs
    assert len(log) == len(whole) == 4
    for other_log, gradients in others:
        for found, wanted in zip(gradients, whole, strict=True):
            assert relative_difference(found, wanted) < 1e-5
        for column in log.columns:
            assert other_log[column].to_numpy() == pytest.approx(
                log[column].to_numpy(), rel=1e-4, abs=1e-5
            )


@pytest.mark.parametrize("reduction", ["cross_entropy", "token_mean_cross_entropy"])
def test_gradient_is_that_of_the_weighted_means_written_out(
    reduction: str, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(
        STILL, batch_size=6, micro_batch_size=2, max_steps=1, options={"beta": 0.7}, retain_weight=5.0,
        retain_objective=reduction,
    )  # fmt: skip
    lm = prepare(LanguageModel.load(checkpoint_of("qwen2")), settings)
    examples = forgotten(lm)
    # A reference that is not the model, so that the log-ratio is not 0.
    examples = [replace(one, reference=one.reference - 0.1) for one in examples]  # type: ignore[operator]
    mixture = Mixture(examples, retained(lm), ratio=2)
    gradients = Gradients()
    log = unlearn(lm, mixture, settings, folder=tmp_path, callbacks=[gradients])

    lm.model.zero_grad()
    losses: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    for position in range(6):
        for (group, _), one in mixture.stream(1, 6)[position]:
            value = log_prob(lm, one.tokens)
            if group == 0:
                assert one.reference is not None
                value = -(2 / 0.7) * F.logsigmoid(-0.7 * (value - one.reference.sum()))
            else:
                length = len(one.tokens.ids[one.tokens.spans["response"]])
                value = -value / (length if reduction.startswith("token_mean") else 1)
            losses[group].append(value)
    forget, *retain = (torch.stack(values).mean() for values in losses.values())
    total = forget + 5.0 * sum(retain) / 2
    total.backward()
    wanted = [p.grad.flatten() for p in lm.model.parameters() if p.grad is not None]
    assert relative_difference(gradients.steps[0], torch.cat(wanted)) < 1e-5
    assert log["loss"].item() == pytest.approx(total.item(), rel=1e-4)
    assert log["loss_forget"].item() == pytest.approx(forget.item(), rel=1e-4)
    assert log["loss_retain_safety"].item() == pytest.approx(retain[0].item(), rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
@pytest.mark.parametrize("parameters", ["lora", "projections"])
def test_nothing_is_forgotten_at_the_first_step(
    family: str, parameters: str, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(STILL, trained=parameters, lora_rank=4, max_steps=2)
    lm = LanguageModel.load(checkpoint_of(family))
    dropout = sum(m.p for m in lm.model.modules() if isinstance(m, nn.Dropout))
    assert (dropout > 0) == (family == "gpt2")
    log, _ = trained(prepare(lm, settings), settings, tmp_path, retain=False)
    assert log["log_ratio"].abs().max() < 1e-4
    assert log["npo_weight"].to_numpy() == pytest.approx(1, abs=1e-4)
    assert not lm.model.training


def test_dropout_would_forget_before_the_first_step(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """The test above can fail: the same run without ``prepare`` has a log-ratio."""
    log, _ = trained(LanguageModel.load(checkpoint_of("gpt2")), STILL, tmp_path, retain=False)
    assert log["log_ratio"].abs().min() > 1e-3


def test_every_epoch_has_an_order_of_its_own(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    lm = prepare(LanguageModel.load(checkpoint_of("qwen2")), STILL)
    settings = replace(
        STILL, batch_size=1, max_steps=12, length_window=0, objective="gradient_ascent", options={}
    )
    log, _ = trained(lm, settings, tmp_path, retain=False)
    first, second = log["loss"].to_numpy()[:6], log["loss"].to_numpy()[6:]
    assert sorted(first) == pytest.approx(sorted(second), rel=1e-4)
    assert list(first) != pytest.approx(list(second), rel=1e-4)


# What is trained


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def weights(lm: LanguageModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in lm.model.named_parameters()}


def test_lora_trains_every_adapted_layer_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    settings = replace(MOVING, trained="lora", lora_rank=4, max_steps=2)
    lm = prepare(LanguageModel.load(checkpoint), settings)
    before = weights(lm)
    trained(lm, settings, tmp_path, retain=False)
    adapters = {name for name in before if "lora_" in name}
    assert changed(before, weights(lm)) == adapters
    for layer in lm.layers:
        assert any("lora_B" in name for name, _ in layer.named_parameters())
    embeddings = lm.model.get_input_embeddings()
    assert not any("lora_" in name for name, _ in embeddings.named_parameters())


def test_a_saved_adapter_is_the_trained_model(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    settings = replace(MOVING, trained="lora", lora_rank=4, max_steps=2)
    lm = prepare(LanguageModel.load(checkpoint_of("llama")), settings)
    trained(lm, settings, tmp_path, retain=False)
    tokens = example(lm, 0).tokens
    loaded = LanguageModel.load(save(lm, tmp_path))
    with torch.no_grad():
        difference = log_prob(loaded, tokens) - log_prob(lm, tokens)
        moved = log_prob(LanguageModel.load(checkpoint_of("llama")), tokens) - log_prob(lm, tokens)
    assert abs(float(difference)) < 1e-3 < abs(float(moved))


def test_projections_leave_embeddings_norms_and_head_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    settings = replace(MOVING, max_steps=1)
    lm = prepare(LanguageModel.load(checkpoint), settings)
    before = weights(lm)
    trained(lm, settings, tmp_path)
    moved = changed(before, weights(lm))
    inside = {id(p) for p in lm.layers.parameters()}
    named = dict(lm.model.named_parameters())
    assert {name for name, p in named.items() if id(p) in inside and p.ndim == 2} <= moved
    assert all(id(named[name]) in inside and "norm" not in name for name in moved)


@pytest.mark.parametrize("parameters", ["all", "projections"])
def test_a_half_precision_checkpoint_is_trained_in_float32(parameters: str, tmp_path: Path) -> None:
    folder = save_checkpoint("qwen2", tmp_path / "half", dtype=torch.bfloat16)
    settings = replace(MOVING, trained=parameters, learning_rate=1e-5, max_steps=1)
    loaded = LanguageModel.load(folder)
    assert loaded.model.dtype == torch.bfloat16
    lm = prepare(loaded, settings)
    before = weights(lm)
    assert {value.dtype for value in before.values()} == {torch.float32}
    trained(lm, settings, tmp_path, retain=False)
    # Most of these steps are below bfloat16's resolution, and are taken all the same.
    weight = "model.layers.0.mlp.up_proj.weight"
    was, now = before[weight], weights(lm)[weight]
    assert (now != was).float().mean() > 0.9
    assert (now.bfloat16() != was.bfloat16()).float().mean() < 0.5


# What training does


def test_npo_forgets_and_a_retain_set_holds(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    found = {}
    for retain in (False, True):
        settings = replace(MOVING, batch_size=6, max_steps=16)
        lm = prepare(LanguageModel.load(checkpoint_of("mistral")), settings)
        kept = [one.tokens for group in retained(lm).values() for one in group]
        target = [one.tokens for one in forgotten(lm)]

        def mean(rows: list[Tokens], lm: LanguageModel = lm) -> float:
            return float(torch.stack([x.sum() for x in reference_log_probs(lm, rows)]).mean())

        before = mean(target), mean(kept)
        log, _ = trained(lm, settings, tmp_path, retain=retain)
        found[retain] = mean(target) - before[0], mean(kept) - before[1]
        assert log["log_ratio"].iloc[-1] < log["log_ratio"].iloc[0]
        assert log["npo_weight"].iloc[-1] < log["npo_weight"].iloc[0]
    assert found[False][0] < -0.5 and found[True][0] < -0.5
    assert found[True][1] > max(found[False][1], 0)


def test_the_same_seed_trains_the_same_weights(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    def run(seed: int) -> Mapping[str, Tensor]:
        settings = replace(MOVING, trained="lora", lora_rank=2, max_steps=2, seed=seed)
        lm = prepare(LanguageModel.load(checkpoint_of("qwen2")), settings)
        trained(lm, settings, tmp_path)
        return weights(lm)

    first = run(0)
    torch.manual_seed(99)
    assert not changed(first, run(0))
    assert changed(first, run(1))


def test_around_forward_surrounds_every_training_forward(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(STILL, micro_batch_size=2, batch_size=4, max_steps=1)
    lm = prepare(LanguageModel.load(checkpoint_of("qwen2")), settings)
    inside, seen, entered = [False], [], []

    @contextmanager
    def around() -> Any:
        inside[0] = True
        entered.append(1)
        yield
        inside[0] = False

    mixture = Mixture(forgotten(lm))
    handle = lm.layers[0].register_forward_hook(lambda *_: seen.append(inside[0]))
    unlearn(lm, mixture, settings, folder=tmp_path, around_forward=around)
    handle.remove()
    assert seen == [True, True] and len(entered) == 2


# What cannot go on


class Poison(TrainerCallback):
    """Makes the loss not a number from the given step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, _: Any, state: Any, *__: Any, model: nn.Module, **___: Any) -> None:
        if state.global_step == self.step - 1:
            with torch.no_grad():
                next(model.parameters()).fill_(float("nan"))


def test_a_loss_that_is_no_number_ends_training_at_its_step(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = prepare(LanguageModel.load(checkpoint_of("qwen2")), STILL)
    mixture = Mixture(forgotten(lm))
    with pytest.raises(TrainingError, match="nan at step 3, on .*; lower the learning rate"):
        unlearn(lm, mixture, STILL, folder=tmp_path, callbacks=[Poison(3)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "nop"}, "no loss 'nop'; expected one of .*npo"),
        ({"retain_objective": "mean"}, "no loss 'mean'; expected one of cross_entropy"),
        ({"options": {"gamma": 1}}, "npo has no option gamma; expected beta"),
        ({"options": {"beta": 0}}, "beta is 0"),
        ({"trained": "head"}, "trained is 'head'; expected one of lora"),
        ({"batch_size": 4, "micro_batch_size": 3}, "3 does not divide batch_size 4"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingSettings(**wrong)


@pytest.mark.parametrize("name", ["batch_size", "micro_batch_size", "max_steps"])
def test_settings_that_must_be_positive_are_refused_at_zero(name: str) -> None:
    with pytest.raises(InputError, match=name):
        TrainingSettings(**{name: 0})  # type: ignore[arg-type]


def test_pairs_and_retain_sets_that_an_objective_needs_are_asked_for(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = prepare(LanguageModel.load(checkpoint_of("qwen2")), STILL)
    for objective, message in (("dpo", "preferred response"), ("grad_diff", "retain set")):
        settings = replace(STILL, objective=objective, options={})
        with pytest.raises(InputError, match=message):
            unlearn(lm, Mixture([example(lm, 0)]), settings, folder=tmp_path)
