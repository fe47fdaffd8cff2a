"""Work on weights refuses packed ones by name, before it does anything; the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analyses.contain.shallow_recovery.relearning import relearning
from analyses.explain.mediation import Subject
from interp.activations import collect
from interp.errors import ModelError
from interp.interventions import orthogonalise
from interp.model import LanguageModel, copied
from interp.model.packed import head_weights, packed_weights
from interp.patching import PatchRuns, patch_weights, weights_from
from tests.patched_models import some_log_odds
from unlearning.training import TrainingSettings, prepare_in_place
from unlearning.training.scaling import scaled_change

Checkpoints = Callable[[str], Path]


class Packed(nn.Linear):
    """A linear module of 8-bit integers and a scale, as quantised checkpoints have them."""

    scale = 1.0

    @classmethod
    def of(cls, plain: nn.Linear, dtype: torch.dtype = torch.int8) -> Packed:
        packed = cls(plain.in_features, plain.out_features, bias=plain.bias is not None)
        packed.bias = plain.bias
        weight = plain.weight.detach()
        packed.scale = float(weight.abs().max() / 127)
        values = (weight / packed.scale).round().to(torch.int8).view(dtype)
        packed.weight = nn.Parameter(values, requires_grad=False)
        return packed

    def forward(self, states: Tensor) -> Tensor:
        values = self.weight.data.view(torch.int8).to(states.dtype) * self.scale
        return nn.functional.linear(states, values, self.bias)


class InBuffers(nn.Module):
    """A linear module that keeps its weight in a buffer."""

    def __init__(self, plain: nn.Linear) -> None:
        super().__init__()
        packed = Packed.of(plain)
        self.bias, self.scale = plain.bias, packed.scale
        self.register_buffer("qweight", packed.weight.data)

    def forward(self, states: Tensor) -> Tensor:
        values = self.qweight.to(states.dtype) * self.scale
        return nn.functional.linear(states, values, self.bias)


DTYPES = {"int8": torch.int8, "float8": torch.float8_e4m3fn}


def quantised(lm: LanguageModel, kind: str = "int8") -> LanguageModel:
    model: Any = copied(lm.model)
    for layer in model.model.layers:
        for name in ("gate_proj", "up_proj", "down_proj"):
            plain = getattr(layer.mlp, name)
            packed: nn.Module
            if kind == "buffers":
                packed, model.is_quantized = InBuffers(plain), True
            else:
                packed = Packed.of(plain, DTYPES[kind])
            setattr(layer.mlp, name, packed)
    packed_lm = replace(lm, model=model)
    packed_lm.found_out["checked"] = lm.checked  # it takes longer than each of these tests
    return packed_lm


@pytest.fixture(scope="module")
def plain(checkpoint_of: Checkpoints) -> LanguageModel:
    return LanguageModel.load(checkpoint_of("llama"))


@pytest.fixture(scope="module")
def packed(plain: LanguageModel) -> LanguageModel:
    return quantised(plain)


@pytest.mark.parametrize("kind", [*DTYPES, "buffers"])
def test_a_packed_head_is_read_as_the_numbers_that_it_stands_for(
    plain: LanguageModel, kind: str
) -> None:
    wanted = plain.model.get_output_embeddings().weight
    assert torch.equal(head_weights(plain.model, plain.d_model), wanted)
    model: Any = copied(plain.model)
    head = nn.Linear(*reversed(wanted.shape))
    head.weight = nn.Parameter(wanted.detach().clone())
    packed = InBuffers(head) if kind == "buffers" else Packed.of(head, DTYPES[kind])
    model.set_output_embeddings(packed)
    found = head_weights(model, plain.d_model)
    assert (found - wanted).abs().max() <= 0.51 * wanted.abs().max() / 127


@pytest.mark.parametrize("kind", [*DTYPES, "buffers"])
def test_packed_weights_are_found_by_what_they_hold(plain: LanguageModel, kind: str) -> None:
    assert packed_weights(plain.model) == []
    assert packed_weights(replace(plain, model=copied(plain.model).bfloat16()).model) == []
    found = packed_weights(quantised(plain, kind).model)
    assert len(found) == 3 * plain.n_layers and all(".mlp." in name for name in found)
    # Bytes under the name of a float, with what unpacks them.
    state: Any = plain.model.lm_head.weight
    state.quant_state = "of a library"
    assert packed_weights(plain.model) == ["lm_head.weight"]
    del state.quant_state


def refused(name: str, lm: LanguageModel, plain: LanguageModel) -> None:
    row = (plain.chat.encode("Why?"),)
    direction = np.eye(plain.d_model)[0]
    if name == "patch":
        patch_weights(PatchRuns(lm, row, lm, row), some_log_odds(lm))
    elif name == "swap":
        with weights_from(plain.model, lm.model, packed_weights(lm.model)[:1]):
            pass
    elif name == "swap into a plain model":
        with weights_from(lm.model, plain.model, packed_weights(lm.model)[:1]):
            pass
    elif name == "orthogonalise":
        orthogonalise(lm, direction)
    elif name == "scale":
        with scaled_change(lm, lm) as scale:
            scale(0.5)
    elif name == "explain":
        Subject.of(lm, lm, some_log_odds(lm), None)  # type: ignore[arg-type]
    elif name == "relearn":
        relearning(lm, {"one": lm}, None, None)  # type: ignore[arg-type]
    else:
        prepare_in_place(lm, TrainingSettings(trained=name))


WORK = ["patch", "swap", "swap into a plain model", "orthogonalise", "scale", "explain", "relearn"]


@pytest.mark.parametrize("work", [*WORK, "projections", "all"])
def test_work_on_packed_weights_is_refused_by_name(
    work: str, plain: LanguageModel, packed: LanguageModel
) -> None:
    print_before = packed.fingerprint()
    with pytest.raises(ModelError, match=r"packed \(.*mlp.*quantised; "):
        refused(work, packed, plain)
    assert packed.fingerprint() == print_before


def test_what_does_not_touch_packed_weights_goes_on(
    plain: LanguageModel, packed: LanguageModel
) -> None:
    lm = packed
    near = collect(lm, ["Why?"]).states, collect(plain, ["Why?"]).states
    assert np.corrcoef(near[0].ravel(), near[1].ravel())[0, 1] > 0.99
    norm = next(name for name, _ in lm.model.named_parameters() if name.endswith("norm.weight"))
    other = replace(lm, model=copied(lm.model))
    with torch.no_grad():
        other.model.get_parameter(norm).mul_(2)
    with weights_from(other.model, lm.model, [norm]):
        assert torch.equal(lm.model.get_parameter(norm), other.model.get_parameter(norm))


def test_the_change_of_an_adapter_on_packed_weights_is_scaled(plain: LanguageModel) -> None:
    lm = quantised(plain)
    names = ("q_proj", "v_proj")
    adapted = prepare_in_place(lm, TrainingSettings(lora_rank=2, lora_alpha=2, lora_targets=names))
    second = [p for n, p in adapted.model.named_parameters() if "lora_B" in n]
    with torch.no_grad():
        for one in second:
            one.fill_(1.0)
    with scaled_change(lm, adapted) as scale:
        scale(0.5)
        assert all((one == 0.5).all() for one in second)
    assert all((one == 1).all() for one in second)
