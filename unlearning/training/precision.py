"""The precision of adapters: weights in float32, products in the precision of their inputs.

An optimizer's steps are smaller than bfloat16 resolves, so PEFT keeps adapters in float32; it then
also computes with them in float32, which is slow next to a bfloat16 base. Here the weights stay in
float32 and each product casts them, as autocast does. With a float32 base nothing changes. Around a
plain linear module, the second product also adds to the output
(:mod:`unlearning.training.fused`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class MasterLinear(nn.Linear):
    """A linear module that computes in the precision of its input."""

    def forward(self, states: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(states.dtype)
        return nn.functional.linear(states, self.weight.to(states.dtype), bias)


def compute_as_inputs(model: nn.Module) -> None:
    """Make every adapter of ``model`` that is a pair of linear modules compute like its inputs.

    Adapters of parameters add B·A to the weight itself, in float32.
    """
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import Linear

    from unlearning.training.fused import FusedLinear

    adapted: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for module in adapted:
        pairs = [one for part in (module.lora_A, module.lora_B) for one in part.values()]
        if all(type(one) in (nn.Linear, MasterLinear) for one in pairs):
            module.cast_input_dtype_enabled = False
            for one in pairs:
                one.__class__ = MasterLinear
            if type(module) is Linear and type(module.base_layer) is nn.Linear:
                module.__class__ = FusedLinear
