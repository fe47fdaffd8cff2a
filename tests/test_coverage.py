"""What is said to train trains, what is said to be frozen does not, and nothing is left unsaid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from interp.errors import InputError
from interp.model import LanguageModel
from tests.architectures import tiny
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    coverage_of,
    prepare_in_place,
    unlearn_in_place,
)
from unlearning.training.adapters import kind

Checkpoints = Callable[[str], Path]
LORA = TrainingSettings(
    objective="gradient_ascent", lora_rank=4, lora_alpha=8, learning_rate=0.05, max_steps=3
)
FULL = replace(LORA, trained="projections", learning_rate=1e-3)
PROMPTS = ("Which birds can swim?", "Name a river in France, and a town that lies on it.")


def moved(lm: LanguageModel, settings: TrainingSettings, folder: Path) -> dict[str, bool]:
    """Trains; for every weight of the layers, whether merging leaves it different."""
    before = {name: p.detach().clone() for name, p in lm.model.named_parameters()}
    outside = {id(p) for p in lm.model.parameters()} - {id(p) for p in lm.layers.parameters()}
    inside = {name for name, p in lm.model.named_parameters() if id(p) not in outside}
    prepared = prepare_in_place(lm, settings)
    examples = [Example(text, lm.chat.encode(text, "I will not say.")) for text in PROMPTS]
    unlearn_in_place(prepared, Mixture(examples), settings, folder=folder)
    model = getattr(prepared.model, "merge_and_unload", lambda: prepared.model)()
    found = {name: not torch.equal(p, before[name]) for name, p in model.named_parameters()}
    assert not any(changed for name, changed in found.items() if name not in inside)
    return {name: changed for name, changed in found.items() if name in inside}


@pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "projections"])
@pytest.mark.parametrize(
    ("what", "frozen"),
    [
        ("fused experts", set()),
        ("fused and shared experts", set()),
        ("transposed experts", {"experts.gate_up_proj_bias", "experts.down_proj_bias"}),
        ("experts sampled in training", set()),
        ("modules that PEFT refuses", {"mixer.A_log", "mixer.conv1d"}),
    ],
)
def test_every_linear_weight_of_the_layers_trains(
    what: str, frozen: set[str], settings: TrainingSettings, tmp_path: Path
) -> None:
    """Only convolutions, biases and decay rates stay, and what PEFT cannot adapt, with its name."""
    covered = coverage_of(prepare_in_place(tiny(what), settings))
    if settings is LORA and what == "modules that PEFT refuses":
        assert covered.reasons["mixer.out_proj"] == "PEFT refuses it"
        assert covered.reasons["mixer.dt_proj"] == "read outside its module"
        assert "mixer.out_proj 26.8% (PEFT refuses it)" in covered.line
        frozen = frozen | set(covered.reasons)
    else:
        assert not covered.reasons
    found = moved(tiny(what), settings, tmp_path)
    matrices = {name for name, p in tiny(what).model.named_parameters() if p.ndim > 1}
    wanted = {
        name for name in matrices & found.keys() if kind(name.removesuffix(".weight")) not in frozen
    }
    assert wanted <= {name for name, changed in found.items() if changed}
    assert not any(found[name] for name in (matrices & found.keys()) - wanted)
    assert {name for name in covered.frozen if "norms" not in name} == frozen
    assert covered.share == pytest.approx(sum(covered.trained.values()) / covered.total)


def hidden(checkpoint_of: Checkpoints, *, alone: bool) -> LanguageModel:
    """A Llama that keeps one of its matrices as a plain parameter, and multiplies by it itself."""
    lm = LanguageModel.load(checkpoint_of("llama"))
    for layer in lm.layers:
        weight = layer.mlp.up_proj.weight
        if alone:
            layer.mlp.up_proj = Multiplied(weight)
        else:
            layer.mlp.secret = weight
            layer.mlp.up_proj = Borrowed(layer.mlp)
    return lm


class Multiplied(nn.Module):
    """A product by a parameter, in a module that is no ``nn.Linear``."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.secret = weight

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(states, self.secret)


class Borrowed(nn.Module):
    """A product by a parameter of the module around this one."""

    def __init__(self, holder: nn.Module) -> None:
        super().__init__()
        self.holder = [holder]

    def forward(self, states: Tensor) -> Tensor:
        return F.linear(states, self.holder[0].secret)


@pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "projections"])
def test_a_weight_that_is_no_linear_module_trains_too(
    settings: TrainingSettings, checkpoint_of: Checkpoints, tmp_path: Path
) -> None:
    assert not coverage_of(prepare_in_place(hidden(checkpoint_of, alone=True), settings)).reasons
    found = moved(hidden(checkpoint_of, alone=True), settings, tmp_path)
    assert all(changed for name, changed in found.items() if "secret" in name or "proj" in name)


def test_a_weight_that_no_adapter_reaches_is_named(checkpoint_of: Checkpoints) -> None:
    covered = coverage_of(prepare_in_place(hidden(checkpoint_of, alone=False), LORA))
    assert covered.reasons == {"mlp.secret": "held by a module of modules"}
    assert covered.frozen["mlp.secret"] == 4 * 160 * 64
    assert "mlp.secret 24.9% (held by a module of modules)" in covered.line


@pytest.mark.parametrize("settings", [LORA, FULL], ids=["lora", "projections"])
def test_experts_that_no_token_of_the_short_prompt_reaches_train_too(
    settings: TrainingSettings,
) -> None:
    """They are of the class of experts that are reached in another layer."""
    lm = tiny("fused experts")
    lm.layers[1].mlp.experts.forward = lambda states, *_: torch.zeros_like(states)  # type: ignore[union-attr, method-assign, assignment]
    covered = coverage_of(prepare_in_place(lm, settings))
    experts = {name for name in covered.trained if "experts" in name}
    assert experts and not experts & covered.frozen.keys()


def test_modules_are_chosen_by_name(checkpoint_of: Checkpoints) -> None:
    def trained(**chosen: tuple[str, ...]) -> set[str]:
        lm = prepare_in_place(tiny("fused and shared experts"), replace(LORA, **chosen))
        return set(coverage_of(lm).trained)

    assert trained(lora_targets=("self_attn", "shared_expert.up_proj")) == {
        *(f"self_attn.{letter}_proj" for letter in "qkvo"),
        "shared_expert.up_proj",
    }
    everything = trained()
    assert trained(lora_exclude=("experts", "q_*")) == {
        name for name in everything if not name.startswith("experts") and "q_proj" not in name
    }
    with pytest.raises(InputError, match=r"called w1; there are self_attn\.q_proj, .*experts"):
        trained(lora_targets=("w1",))
    with pytest.raises(InputError, match="give --trainable lora"):
        TrainingSettings(trained="all", lora_exclude=("q_proj",))


def test_nothing_outside_the_layers_gets_an_adapter() -> None:
    """Neither a head nor a tower whose modules are called as those of the layers are."""
    lm = tiny("dense")
    lm.model.tower = nn.Module()
    lm.model.tower.model = nn.Module()
    lm.model.tower.model.layers = nn.ModuleList([nn.Module()])
    lm.model.tower.model.layers[0].mlp = nn.Module()
    lm.model.tower.model.layers[0].mlp.up_proj = nn.Linear(3, 3)
    lm = replace(lm, layers_path="model.layers")
    prepared = prepare_in_place(lm, LORA)
    inside = {id(p) for p in prepared.layers.parameters()}
    trains = [p for p in prepared.model.parameters() if p.requires_grad]
    assert trains and all(id(p) in inside for p in trains)
    assert prepared.n_layers == 2
