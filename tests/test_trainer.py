"""Training: the loss is the mixture's and nothing else's, and only what was chosen is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainerCallback

from interp.errors import InputError, TrainingError
from interp.model import LanguageModel, Tokens
from tests.architectures import tiny
from tests.checkpoints import load_checkpoint, save_checkpoint
from unlearning.losses import FORGET, objective, reference_log_probs, response_log_probs
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    newest_complete,
    prepare_in_place,
    unlearn_in_place,
)
from unlearning.training.eval_mode import probe_logits
from unlearning.training.mixture import collator
from unlearning.training.parameters import save_parameters
from unlearning.training.trainer import UnlearningTrainer
from unlearning.training.views import control_vector

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
    mixture = Mixture(forgotten(lm), retained(lm) if retain else {}, ratio=2, seed=3)
    log = unlearn_in_place(lm, mixture, settings, folder=folder, callbacks=[gradients])
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
        # With multipliers a step also has every term's rise, and the weights that follow from it.
        settings = replace(
            STILL, micro_batch_size=micro, retain_weight=3.0, adaptive=family == "qwen2"
        )
        lm = prepare_in_place(load_checkpoint(checkpoint_of(family)), settings)
        runs.append(trained(lm, settings, tmp_path))
    (log, whole), *others = runs
    assert len(log) == len(whole) == 4
    assert ("rise_safety" in log) == (family == "qwen2")
    for other_log, gradients in others:
        for found, wanted in zip(gradients, whole, strict=True):
            assert relative_difference(found, wanted) < 1e-5
        for column in log.columns:
            assert other_log[column].to_numpy() == pytest.approx(
                log[column].to_numpy(), rel=1e-4, abs=1e-5
            )


def test_older_versions_of_trainer_do_not_divide_the_loss_again(
    checkpoint_of: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They decide by the model's forward alone, and divide by the number of micro-batches."""
    monkeypatch.setattr(UnlearningTrainer, "loss_is_scaled_for_ga", None)
    gradients = []
    for micro in (4, 1):
        settings = replace(STILL, micro_batch_size=micro, max_steps=1)
        lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), settings)
        lm.model.accepts_loss_kwargs = False
        gradients += trained(lm, settings, tmp_path)[1]
    assert relative_difference(gradients[1], gradients[0]) < 1e-5


@pytest.mark.parametrize("reduction", ["cross_entropy", "token_mean_cross_entropy"])
def test_gradient_is_that_of_the_weighted_means_written_out(
    reduction: str, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(
        STILL, batch_size=6, micro_batch_size=2, max_steps=1, options={"beta": 0.7},
        retain_weight=5.0, retain_objective=reduction,
    )  # fmt: skip
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), settings)
    examples = forgotten(lm)
    # A reference that is not the model, so that the log-ratio is not 0.
    examples = [replace(one, reference=one.reference - 0.1) for one in examples]  # type: ignore[operator]
    mixture = Mixture(examples, retained(lm), ratio=2)
    gradients = Gradients()
    log = unlearn_in_place(lm, mixture, settings, folder=tmp_path, callbacks=[gradients])

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
    lm = load_checkpoint(checkpoint_of(family))
    dropout = sum(m.p for m in lm.model.modules() if isinstance(m, nn.Dropout))
    assert (dropout > 0) == (family == "gpt2")
    log, _ = trained(prepare_in_place(lm, settings), settings, tmp_path, retain=False)
    assert log["log_ratio"].abs().max() < 1e-4
    assert log["npo_weight"].to_numpy() == pytest.approx(1, abs=1e-4)
    assert not lm.model.training


def test_dropout_would_forget_before_the_first_step(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """The test above can fail: the same run without ``prepare_in_place`` has a log-ratio."""
    log, _ = trained(load_checkpoint(checkpoint_of("gpt2")), STILL, tmp_path, retain=False)
    assert log["log_ratio"].abs().min() > 1e-3


def test_every_epoch_has_an_order_of_its_own(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), STILL)
    settings = replace(
        STILL, batch_size=1, max_steps=12, length_window=0, objective="gradient_ascent", options={}
    )
    log, _ = trained(lm, settings, tmp_path, retain=False)
    first, second = log["loss"].to_numpy()[:6], log["loss"].to_numpy()[6:]
    assert sorted(first) == pytest.approx(sorted(second), rel=1e-4)
    assert list(first) != pytest.approx(list(second), rel=1e-4)


class Optimisers(TrainerCallback):
    """The optimizer's groups at every step."""

    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = []

    def on_step_end(self, *_: Any, optimizer: Any, **__: Any) -> None:
        self.groups += [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]


def test_the_optimizer_is_adamw_at_a_constant_rate_without_decay(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(MOVING, max_steps=3, adam_betas=(0.8, 0.95), learning_rate=3e-4)
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), settings)
    optimisers = Optimisers()
    log = unlearn_in_place(
        lm, Mixture(forgotten(lm)), settings, folder=tmp_path, callbacks=[optimisers]
    )
    assert log["learning_rate"].tolist() == [3e-4] * 3
    assert len(optimisers.groups) >= 3
    for group in optimisers.groups:
        assert tuple(group["betas"]) == (0.8, 0.95)
        assert group["lr"] == 3e-4
        assert group["weight_decay"] == 0


# Every objective, however its gradient is computed

FORGOTTEN = (
    "gradient_ascent",
    "grad_diff",
    "npo",
    "sim_npo",
    "dpo",
    "idk_dpo",
    "rmu",
    "fine_tuning",
)
COMBINED = [
    *((objective, "cross_entropy") for objective in FORGOTTEN),
    *(
        (objective, retain)
        for objective in ("npo", "dpo", "rmu")
        for retain in ("kl", "feature_l2")
    ),
]
LAYER = 2


class Moved(TrainerCallback):
    """Puts the model elsewhere than where its reference was taken, as training would."""

    def on_train_begin(self, *_: Any, model: nn.Module, **__: Any) -> None:
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))


class NamedGradients(TrainerCallback):
    """The gradient of every trained parameter at the last step."""

    def __init__(self) -> None:
        self.found: dict[str, Tensor | None] = {}

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        self.found = {
            name: None if p.grad is None else p.grad.clone()
            for name, p in model.named_parameters()
            if p.requires_grad
        }

    def vector(self) -> Tensor:
        return torch.cat([grad.flatten() for grad in self.found.values() if grad is not None])


def pairs(lm: LanguageModel) -> list[Example]:
    """The forget examples, each with a preferred response of another length."""
    found = with_reference(lm, [example(lm, number) for number in range(6)])
    chosen = [lm.chat.encode(PROMPTS[i], KEPT[i % 2]) for i in range(6)]
    references = reference_log_probs(lm, chosen)
    return [
        replace(one, preferred=tokens, preferred_reference=values)
        for one, tokens, values in zip(found, chosen, references, strict=True)
    ]


def moved_gradient(
    folder: Path, checkpoint: Path, settings: TrainingSettings
) -> tuple[NamedGradients, pd.DataFrame, LanguageModel]:
    """One step's gradient away from the reference, its log, and the model there."""
    lm = prepare_in_place(load_checkpoint(checkpoint), settings)
    gradients = NamedGradients()
    mixture = Mixture(pairs(lm), retained(lm), ratio=2, seed=3)
    log = unlearn_in_place(lm, mixture, settings, folder=folder, callbacks=[Moved(), gradients])
    return gradients, log, lm


def response_of(lm: LanguageModel, tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Log-softmax "response vocab" and states "response d_model" the plain way."""
    output = lm.model(input_ids=torch.tensor([tokens.ids]), output_hidden_states=True)
    span = tokens.spans["response"]
    predicting = slice(span.start - 1, span.stop - 1)
    states = output.hidden_states[LAYER + 1][0, predicting]
    return output.logits[0, predicting].log_softmax(-1), states


def by_hand(name: str, lm: LanguageModel, given: LanguageModel, one: Example) -> Tensor:
    """The paper's equation for one example, from plain forwards of both models."""
    log_softmax, states = response_of(lm, one.tokens)
    with torch.no_grad():
        reference, reference_states = response_of(given, one.tokens)
    if name == "kl":
        return (reference.exp() * (reference - log_softmax)).sum()
    if name == "feature_l2":
        return (states - reference_states).pow(2).mean()
    if name == "rmu":
        return (states - 6.5 * control_vector(lm.d_model, seed=0)).pow(2).mean()
    own = log_prob(lm, one.tokens)
    if name == "cross_entropy":
        return -own
    if name in ("gradient_ascent", "grad_diff"):
        return own
    if name == "sim_npo":
        length = len(one.tokens.ids[one.tokens.spans["response"]])
        return -(2 / 4.5) * F.logsigmoid(-4.5 * own / length)
    if name == "npo":
        with torch.no_grad():
            before = log_prob(given, one.tokens)
        return -(2 / 0.1) * F.logsigmoid(-0.1 * (own - before))
    assert one.preferred is not None
    preferred = log_prob(lm, one.preferred)
    if name == "fine_tuning":
        return -preferred
    assert name in ("dpo", "idk_dpo")
    with torch.no_grad():
        winner, loser = log_prob(given, one.preferred), log_prob(given, one.tokens)
    return -F.logsigmoid(0.1 * ((preferred - winner) - (own - loser)))


@pytest.mark.parametrize(
    ("objective", "retain", "parameters"),
    [
        *((*one, "projections") for one in COMBINED),
        # One of every kind of loss and of reference; the rest of the engine sees no difference.
        ("npo", "cross_entropy", "lora"),
        ("dpo", "kl", "lora"),
        ("rmu", "feature_l2", "lora"),
        ("fine_tuning", "cross_entropy", "lora"),
    ],
)
def test_every_way_to_the_gradient_gives_that_of_the_equations_written_out(
    objective: str, retain: str, parameters: str, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """Micro-batches (and so padding), separate passes and checkpointing are ways to save memory."""
    whole = replace(
        STILL, objective=objective, retain_objective=retain, options={}, trained=parameters,
        lora_rank=4, batch_size=6, max_steps=1, layer=LAYER, retain_weight=3.0,
    )  # fmt: skip
    together = {"separate_backward": True, "activation_checkpointing": True}
    ways: list[dict[str, Any]] = [{"micro_batch_size": 3}, {"micro_batch_size": 2, **together}]
    # Adapters go the same ways; checkpointing is the one that trains nothing in other hands.
    ways = ways[-1:] if parameters == "lora" else ways
    wanted, wanted_log, lm = moved_gradient(tmp_path, checkpoint_of("qwen2"), whole)
    reached = {name for name, grad in wanted.found.items() if grad is not None and grad.any()}
    states_only = objective == "rmu" and retain == "feature_l2"
    layers = range(LAYER + 1 if states_only else 4)
    for name in wanted.found:
        assert (name in reached) == any(f"layers.{i}." in name for i in layers), name
    assert {"lora_A" in name for name in reached} == (
        {True, False} if parameters == "lora" else {False}
    )
    for way in ways:
        found, log, _ = moved_gradient(tmp_path, checkpoint_of("qwen2"), replace(whole, **way))
        assert relative_difference(found.vector(), wanted.vector()) < 1e-5, way
        for name in reached:
            assert relative_difference(found.found[name], wanted.found[name]) < 1e-4, name
        for column in wanted_log.columns:
            assert log[column].item() == pytest.approx(
                wanted_log[column].item(), rel=1e-5, abs=1e-6
            )

    given = load_checkpoint(checkpoint_of("qwen2"))
    # Six positions with a ratio of 2: every forget example once, and each group six of its own.
    groups: dict[int, list[Tensor]] = {0: [], 1: [], 2: []}
    stream = Mixture(pairs(given), retained(given), ratio=2, seed=3).stream(1, 6)
    for position in range(6):
        for (group, _), one in stream[position]:
            groups[group].append(by_hand(retain if group else objective, lm, given, one))
    forget, *kept = (torch.stack(values).mean() for values in groups.values())
    total = forget + 3.0 * sum(kept) / 2
    lm.model.zero_grad()
    total.backward()
    equations = NamedGradients()
    equations.on_pre_optimizer_step(model=lm.model)
    assert relative_difference(wanted.vector(), equations.vector()) < 1e-5
    assert wanted_log["loss"].item() == pytest.approx(total.item(), rel=1e-5)
    assert wanted_log["loss_forget"].item() == pytest.approx(forget.item(), rel=1e-5)


def test_checkpointing_computes_activations_again_and_ablated_ones_ablated(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    found = []
    for checkpointing in (False, True):
        settings = replace(STILL, activation_checkpointing=checkpointing, max_steps=1)
        lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), settings)
        runs: list[int] = []
        # A layer's own hooks do not run when it is computed again, those inside it do.
        counter = lm.layers[3].mlp.register_forward_pre_hook(  # type: ignore[union-attr, operator]
            lambda *_, runs=runs: runs.append(1)
        )

        @contextmanager
        def ablated(layer: nn.Module = lm.layers[1].input_layernorm) -> Any:  # type: ignore[assignment]
            handle = layer.register_forward_hook(lambda _module, _inputs, output: 0.5 * output)
            yield
            handle.remove()

        gradients = Gradients()
        unlearn_in_place(
            lm, Mixture(forgotten(lm)), settings, folder=tmp_path, callbacks=[gradients],
            around_forward=ablated,
        )  # fmt: skip
        counter.remove()
        # Reference log-probs take a forward before training.
        found.append((len(runs), gradients.steps[0]))
    (once, wanted), (twice, recomputed) = found
    assert twice == once + 1
    assert relative_difference(recomputed, wanted) < 1e-5


# Precision


def in_same_shape(
    lm: LanguageModel, mixture: Mixture, settings: TrainingSettings, autocast: bool
) -> Mixture:
    """References from the very batch of the first step, in train mode."""
    stream = mixture.stream(1, settings.batch_size, window=settings.length_window)
    batch = collator(lm.chat)([stream[i] for i in range(len(stream))])
    lm.model.train()
    precision = torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext()
    names = ("input_ids", "attention_mask", "position_ids")
    with torch.no_grad(), precision:
        values, mask = response_log_probs(
            lm.model, {name: batch[name] for name in names}, batch["response_mask"]
        )
    found = {place: row[kept] for place, row, kept in
             zip(batch["place"].tolist(), values, mask, strict=True)}  # fmt: skip
    return replaced(mixture, [found[i] for i in range(len(mixture.forget))])


def replaced(mixture: Mixture, references: Sequence[Tensor]) -> Mixture:
    forget = [replace(one, reference=values)
              for one, values in zip(mixture.forget, references, strict=True)]  # fmt: skip
    return Mixture(forget, mixture.retain, ratio=mixture.ratio, seed=mixture.seed)


PRECISIONS = [
    pytest.param(torch.float32, "lora", False, id="float32-lora"),
    pytest.param(torch.float32, "projections", False, id="float32-projections"),
    pytest.param(torch.float32, "projections", True, id="autocast-projections"),
    pytest.param(torch.bfloat16, "lora", False, id="bfloat16-lora"),
]


@pytest.mark.parametrize(("dtype", "parameters", "autocast"), PRECISIONS)
@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_the_log_ratio_is_exactly_0_against_a_reference_of_the_same_batch(
    family: str,
    dtype: torch.dtype,
    parameters: str,
    autocast: bool,
    checkpoint_of: Checkpoints,
    tmp_path: Path,
) -> None:
    settings = replace(
        STILL, trained=parameters, lora_rank=4, batch_size=6, max_steps=1, autocast=autocast
    )
    lm = prepare_in_place(load_checkpoint(checkpoint_of(family), dtype), settings)
    bare = Mixture([example(lm, number) for number in range(6)])
    log = unlearn_in_place(
        lm, in_same_shape(lm, bare, settings, autocast), settings, folder=tmp_path
    )
    assert log["log_ratio"].item() == 0.0
    assert log["npo_weight"].item() == 1.0


@pytest.mark.parametrize(("dtype", "parameters", "autocast"), PRECISIONS)
@pytest.mark.parametrize("family", ["qwen2", "gemma2"])
def test_the_log_ratio_through_the_cache_is_small(
    family: str,
    dtype: torch.dtype,
    parameters: str,
    autocast: bool,
    checkpoint_of: Checkpoints,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """One response a step, so that the log has every response's; the cache has them in batches."""
    settings = replace(
        STILL, trained=parameters, lora_rank=4, batch_size=1, max_steps=6, autocast=autocast
    )
    lm = prepare_in_place(load_checkpoint(checkpoint_of(family), dtype), settings)
    bare = Mixture([example(lm, number) for number in range(6)])
    log = unlearn_in_place(lm, bare, settings, folder=tmp_path, cache=tmp_path / "cache")
    largest = float(log["log_ratio"].abs().max())
    record_property("log_ratio", largest)
    exact = dtype is torch.float32 and not autocast
    assert largest < (1e-4 if exact else 0.05)


class Dtypes(TrainerCallback):
    """Of the trained parameters, their gradients and the optimizer's moments."""

    def __init__(self) -> None:
        self.trained: set[torch.dtype] = set()
        self.moments: set[torch.dtype] = set()

    def on_step_end(self, *_: Any, model: nn.Module, optimizer: Any, **__: Any) -> None:
        self.trained = {p.dtype for p in model.parameters() if p.requires_grad}
        self.moments = {
            value.dtype
            for state in optimizer.state.values()
            for name, value in state.items()
            if name.startswith("exp_avg")
        }


def test_adapters_of_a_half_precision_model_and_their_moments_are_float32(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(MOVING, trained="lora", lora_rank=4, learning_rate=1e-5, max_steps=2)
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2"), torch.bfloat16), settings)
    before = weights(lm)
    dtypes = Dtypes()
    mixture = Mixture(forgotten(lm), retained(lm))
    unlearn_in_place(lm, mixture, settings, folder=tmp_path, callbacks=[dtypes])
    assert dtypes.trained == dtypes.moments == {torch.float32}
    frozen = {p.dtype for p in lm.model.parameters() if not p.requires_grad}
    assert frozen == {torch.bfloat16}
    adapters = {name for name in before if "lora_" in name}
    assert changed(before, weights(lm)) == adapters


class Scored(TrainerCallback):
    """Logits that a callback reads along the run."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.logits = probe_logits(self.lm)


def test_autocast_trains_float32_weights_in_a_bfloat16_forward(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(MOVING, autocast=True, learning_rate=1e-5, max_steps=1)
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2"), torch.bfloat16), settings)
    before = weights(lm)
    seen: list[torch.dtype] = []
    handle = lm.layers[1].mlp.register_forward_hook(  # type: ignore[union-attr]
        lambda _module, _inputs, output: seen.append(output.dtype)
    )
    dtypes, scored = Dtypes(), Scored(lm)
    # References are there already, so every forward is a training one.
    mixture = Mixture(forgotten(lm))
    seen.clear()
    unlearn_in_place(lm, mixture, settings, folder=tmp_path, callbacks=[dtypes, scored])
    # The one forward that scores the model after the step, and those after training, are exact.
    assert seen[0] == torch.bfloat16 and seen[-1] == torch.float32
    assert set(seen[:-1]) == {torch.bfloat16}
    seen.clear()
    probe_logits(lm)
    handle.remove()
    assert set(seen) == {torch.float32}
    torch.testing.assert_close(scored.logits, probe_logits(lm))
    assert dtypes.trained == dtypes.moments == {torch.float32}
    weight = "model.layers.0.mlp.up_proj.weight"
    was, now = before[weight], weights(lm)[weight]
    assert (now != was).float().mean() > 0.9


@pytest.mark.parametrize("retain", ["cross_entropy", "kl", "feature_l2"])
def test_a_user_s_own_adapter_is_where_training_starts_from_and_refers_to(
    retain: str, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    base, settings = checkpoint_of("llama"), replace(STILL, trained="lora", lora_rank=4)
    own = prepare_in_place(load_checkpoint(base), settings)
    Moved().on_train_begin(model=own.model)
    adapter = save_parameters(own, tmp_path / "own")
    given = LanguageModel.load(adapter)
    settings = replace(settings, retain_objective=retain, max_steps=2, layer=LAYER)
    lm = prepare_in_place(LanguageModel.load(adapter), settings)
    mixture = Mixture([example(lm, number) for number in range(6)], retained(lm))
    log = unlearn_in_place(lm, mixture, settings, folder=tmp_path / "run")
    assert log["log_ratio"].abs().max() < 1e-4
    if retain != "cross_entropy":  # a distance to the reference: to the base it would not be 0
        assert log["loss_retain_safety"].abs().max() < 1e-8
    tokens = example(lm, 0).tokens
    with torch.no_grad():
        start = log_prob(lm, tokens)
        assert float(start - log_prob(given, tokens)) == pytest.approx(0, abs=1e-4)
        assert abs(float(start - log_prob(load_checkpoint(base), tokens))) > 0.1


# What is trained


def changed(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def weights(lm: LanguageModel) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in lm.model.named_parameters()}


def test_lora_trains_every_adapted_layer_and_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    settings = replace(MOVING, trained="lora", lora_rank=4, max_steps=2)
    lm = prepare_in_place(load_checkpoint(checkpoint), settings)
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
    lm = prepare_in_place(load_checkpoint(checkpoint_of("llama")), settings)
    trained(lm, settings, tmp_path, retain=False)
    tokens = example(lm, 0).tokens
    loaded = LanguageModel.load(save_parameters(lm, tmp_path))
    with torch.no_grad():
        difference = log_prob(loaded, tokens) - log_prob(lm, tokens)
        moved = log_prob(load_checkpoint(checkpoint_of("llama")), tokens) - log_prob(lm, tokens)
    assert abs(float(difference)) < 1e-3 < abs(float(moved))


def test_projections_leave_embeddings_norms_and_head_alone(
    checkpoint: Path, tmp_path: Path
) -> None:
    settings = replace(MOVING, max_steps=1)
    lm = prepare_in_place(load_checkpoint(checkpoint), settings)
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
    lm = prepare_in_place(loaded, settings)
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
        lm = prepare_in_place(load_checkpoint(checkpoint_of("mistral")), settings)
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


def test_the_configuration_that_is_saved_is_the_given_one(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    settings = replace(MOVING, max_steps=1)
    lm = load_checkpoint(checkpoint_of("qwen2"))
    given = lm.model.config.to_dict()
    assert given["use_cache"]
    lm = prepare_in_place(lm, settings)
    trained(lm, settings, tmp_path)
    assert lm.model.config.to_dict() == given


def test_the_same_seed_trains_the_same_weights(checkpoint_of: Checkpoints, tmp_path: Path) -> None:
    def run(seed: int) -> Mapping[str, Tensor]:
        settings = replace(MOVING, trained="lora", lora_rank=2, max_steps=2, seed=seed)
        lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), settings)
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
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), settings)
    inside, seen, entered = [False], [], []

    @contextmanager
    def around() -> Any:
        inside[0] = True
        entered.append(1)
        yield
        inside[0] = False

    mixture = Mixture(forgotten(lm))
    handle = lm.layers[0].register_forward_hook(lambda *_: seen.append(inside[0]))
    unlearn_in_place(lm, mixture, settings, folder=tmp_path, around_forward=around)
    handle.remove()
    assert seen == [True, True] and len(entered) == 2


# Going on after an interruption


class Interrupt(TrainerCallback):
    """Ends the process, as it were, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("choice", ["all", "lora"])
@pytest.mark.parametrize("kind", ["fused experts", "transposed experts"])
def test_a_resumed_run_has_every_trained_weight(kind: str, choice: str, tmp_path: Path) -> None:
    """Files split what the model holds as one tensor, so their names differ from the model's."""
    settings = replace(MOVING, trained=choice, lora_rank=4, max_steps=4)
    run: dict[str, Any] = {"folder": tmp_path / "resumed", "checkpoint_every": 1}

    def prepared() -> tuple[LanguageModel, Mixture]:
        lm = prepare_in_place(tiny(kind), settings)
        return lm, Mixture(forgotten(lm))

    whole, mixture = prepared()
    unlearn_in_place(whole, mixture, settings, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        unlearn_in_place(*prepared(), settings, **run, callbacks=[Interrupt(2)])
    resumed, mixture = prepared()
    unlearn_in_place(resumed, mixture, settings, **run)
    for name, parameter in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], parameter, msg=name)


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
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), STILL)
    mixture = Mixture(forgotten(lm))
    with pytest.raises(TrainingError, match="nan at step 3, on .*; lower the learning rate"):
        unlearn_in_place(lm, mixture, STILL, folder=tmp_path, callbacks=[Poison(3)])


def test_a_gradient_that_is_no_number_ends_training_before_its_step(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    """√0 has a finite value and no finite derivative; the checkpoint before it can be resumed."""
    steps: list[int] = []
    broken = [True]

    def root(log_probs: Tensor, mask: Tensor) -> Tensor:
        total = (log_probs * mask).sum(dim=-1)
        return total + (total - total).sqrt() if broken[0] and len(steps) == 2 else total

    class Count(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append(1)

    entry = objective(root)
    settings = replace(STILL, objective="root", options={}, learning_rate=1e-3)
    run: dict[str, Any] = {"folder": tmp_path, "checkpoint_every": 1, "callbacks": [Count()]}
    try:
        lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), settings)
        with pytest.raises(TrainingError, match=r"norm is nan at step 3.*good checkpoint is .*-2"):
            unlearn_in_place(lm, Mixture(forgotten(lm)), settings, **run)
        assert all(torch.isfinite(p).all() for p in lm.model.parameters())
        broken[0] = False
        again = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), settings)
        log = unlearn_in_place(again, Mixture(forgotten(again)), settings, **run)
        assert list(log["step"]) == [1, 2, 3, 4] and len(steps) == 4
    finally:
        for table in (FORGET._entries, FORGET._abouts, FORGET._origins):
            table.pop(entry.__name__)  # type: ignore[attr-defined]


def test_weights_that_are_no_numbers_are_never_a_checkpoint(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), replace(STILL, trained="all"))
    with pytest.raises(TrainingError, match="is not finite after step 2, which is not saved"):
        unlearn_in_place(
            lm,
            Mixture(forgotten(lm)),
            STILL,
            folder=tmp_path,
            callbacks=[Poison(3)],
            checkpoint_every=1,
        )
    assert newest_complete(tmp_path) == tmp_path / "checkpoint-1"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "nop"}, "no objective 'nop'; did you mean 'npo'?"),
        ({"retain_objective": "mean"}, "no retain term 'mean'; expected one of cross_entropy"),
        ({"options": {"gamma": 1}}, "npo has no option gamma; expected beta"),
        ({"options": {"beta": 0}}, "beta is 0"),
        ({"trained": "head"}, "trained is 'head'; expected one of lora"),
        ({"batch_size": 4, "micro_batch_size": 3}, "3 does not divide batch_size 4"),
        ({"retain_weight": -1.0}, "retain_weight is -1.0; expected 0 or more"),
        ({"retain_weight": float("nan")}, "retain_weight is nan; expected 0 or more"),
        ({"learning_rate": -1e-4}, "learning_rate is -0.0001; expected 0 or more"),
        ({"max_grad_norm": -1.0}, "max_grad_norm is -1.0; expected 0 or more"),
        ({"slack": float("nan")}, "slack is nan; expected a number"),
        ({"lora_alpha": 0.5}, "lora_alpha is 0.5 .* expected whole numbers"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
        ({"seed": 2**32}, r"below 2\*\*32"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainingSettings(**wrong)


@pytest.mark.parametrize("name", ["batch_size", "micro_batch_size", "max_steps", "lora_alpha"])
def test_settings_that_must_be_positive_are_refused_at_zero(name: str) -> None:
    with pytest.raises(InputError, match=name):
        TrainingSettings(**{name: 0})  # type: ignore[arg-type]


def test_pairs_and_retain_sets_that_an_objective_needs_are_asked_for(
    checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    lm = prepare_in_place(load_checkpoint(checkpoint_of("qwen2")), STILL)
    for name, message in (("dpo", "preferred response"), ("grad_diff", "retain set")):
        settings = replace(STILL, objective=name, options={})
        with pytest.raises(InputError, match=message):
            unlearn_in_place(lm, Mixture([example(lm, 0)]), settings, folder=tmp_path)
