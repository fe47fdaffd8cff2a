"""The scaled weight change θ(s) = θ_0 + s (θ_a − θ_0): s = 0 is the base, s = 1 the trained model.

A line of models without steps of training, which wander and overshoot. For adapters, s scales the
second factor of every adapter; the base's weights stay as they are.

In 16 bits a trained weight is often one of the two numbers next to the base's, with none between
them. Rounded to the nearest, most of the change would come at s = ½. So a weight between two
numbers takes the upper one with the probability that keeps the mean. What is drawn is the same for
every s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.model import LanguageModel, require_plain_weights

ADAPTERS = ("lora_B", "lora_embedding_B")  # peft's second factors, which are 0 at the start

ADVICE = "load it without quantisation, or give its adapter without merging it"


@contextmanager
def scaled_change(base: LanguageModel, after: LanguageModel) -> Iterator[Callable[[float], None]]:
    """A function of s that sets the weights of ``after`` to θ_0 + s (θ_a − θ_0) in the context.

    Args:
        base: the model before; not read if ``after`` has adapters that are not merged.
        after: the model that was trained; its weights are θ_a again after the context.

    Raises:
        InputError: the two models have different parameters.
        ModelError: the weights are packed.
    """
    end = dict(after.model.named_parameters())
    adapters = {n: p for n, p in end.items() if any(part in ADAPTERS for part in n.split("."))}
    start: Mapping[str, Tensor | None] = dict.fromkeys(adapters)
    if not adapters:
        own = dict(base.model.named_parameters())
        if {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in end.items()}:
            raise InputError("the two models have different parameters, so no change can be scaled")
        for lm in (base, after):
            require_plain_weights(lm.model, "a scaled change", ADVICE)
        start = own
    kept = {name: end[name].detach().clone() for name in start}

    def scale(s: float) -> None:
        with torch.no_grad():
            for number, (name, origin) in enumerate(start.items()):
                goal = kept[name].float()
                before = 0.0 if origin is None else origin.detach().to(goal.device).float()
                end[name].copy_(rounded(before + s * (goal - before), end[name].dtype, number))

    try:
        yield scale
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                end[name].copy_(weight)


def rounded(values: Float[Tensor, "*size"], dtype: torch.dtype, seed: int) -> Tensor:
    """float32 values in ``dtype``; one between two numbers of 16 bits takes one of them at random.

    The probabilities keep its mean. Values that ``dtype`` holds stay as they are.
    """
    nearest = values.to(dtype)
    if dtype not in (torch.bfloat16, torch.float16):
        return nearest
    generator = torch.Generator(values.device).manual_seed(seed)
    drawn = torch.rand(values.shape, generator=generator, device=values.device) - 0.5
    spacing = values.abs().log2().floor().exp2() * torch.finfo(dtype).eps
    return torch.where(nearest == values, nearest, (values + drawn * spacing).to(dtype))
