"""The weights of the decoder layers that multiply activations, found by what they do.

A module's class does not tell: experts are often one tensor of three dimensions, routers are
parameters that a function multiplies by, and some subclasses of ``nn.Linear`` return more than the
product, or another number. So one forward on a short prompt is traced: a parameter is linear if a
matrix product reads it, through views and copies too. Convolutions, norms, embeddings and decay
rates are not linear. A weight that this prompt did not reach, such as an expert that no token was
sent to, is linear if it is an ``nn.Linear``'s, or if another module of its class multiplies by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.pytorch_utils import Conv1D

from interp.model.hooks import undisturbed
from interp.model.language_model import LanguageModel
from interp.model.packed import FLOATS
from interp.model.probes import probe_tokens

PRODUCT = re.compile(r"mm|matmul|linear|mv|einsum")
COPIES = {"_to_copy", "clone", "contiguous", "index", "index_select", "_reshape_copy"}


@dataclass(frozen=True)
class LinearWeight:
    """A weight that multiplies activations.

    Attributes:
        name: of the parameter in the model.
        module: the module that holds it.
        parameter: its name there.
        is_plain: whether the module returns nothing but its input times the weight, plus a bias.
        is_read: whether a product reads it on the short prompt.
        is_called: whether its module's forward is called.
    """

    name: str
    module: nn.Module
    parameter: str
    is_plain: bool
    is_read: bool
    is_called: bool

    @property
    def value(self) -> nn.Parameter:
        return self.module.get_parameter(self.parameter)

    @property
    def is_outside(self) -> bool:
        """Whether it is read from outside its module."""
        return self.is_read and not self.is_called

    @property
    def bias(self) -> nn.Parameter | None:
        """A plain module's bias."""
        return getattr(self.module, "bias", None) if self.is_plain else None

    @property
    def place(self) -> str:
        """Its module's path; for one of several parameters of a module, the parameter's path."""
        return self.name.removesuffix(".weight")

    @property
    def reads_last(self) -> bool:
        """Whether the last axis is the input's: (out, in) or (expert, out, in)."""
        if isinstance(self.module, Conv1D):
            return False
        return self.value.ndim < 3 or not getattr(self.module, "is_transposed", False)


def linear_weights(lm: LanguageModel) -> tuple[LinearWeight, ...]:
    """Every weight of ``lm.layers`` that multiplies activations, in the order of the layers.

    A tensor that several modules share is listed with each of them.
    """
    if "linear weights" not in lm.found_out:
        lm.found_out["linear weights"] = tuple(_found(lm))
    return lm.found_out["linear weights"]


def _found(lm: LanguageModel) -> Iterator[LinearWeight]:
    root = next(name for name, module in lm.model.named_modules() if module is lm.layers)
    tokens = probe_tokens(lm)
    spy = _Products(lm.layers)
    called: dict[nn.Module, bool] = {}

    def note(module: nn.Module, inputs: tuple, keywords: dict[str, Any], output: Any) -> None:
        called[module] = called.get(module, True) and _is_product(module, inputs, keywords, output)

    with ExitStack() as stack:
        for module in lm.layers.modules():
            stack.enter_context(module.register_forward_hook(note, with_kwargs=True))
        stack.enter_context(undisturbed(lm.model))
        stack.enter_context(spy)
        lm.logits(lm.chat.pad([tokens], lm.device), keep=1)
    named = [
        (path, module, name, parameter)
        for path, module in lm.layers.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    kinds = {(type(one), name) for _, one, name, value in named if id(value) in spy.multiplied}
    for path, module, name, parameter in named:
        is_linear = isinstance(module, nn.Linear | Conv1D) and name == "weight"
        if (type(module), name) in kinds or is_linear:
            plain_class = type(module).forward in (nn.Linear.forward, Conv1D.forward)
            yield LinearWeight(
                f"{root}.{path}.{name}",
                module,
                name,
                is_linear and called.get(module, plain_class),
                id(parameter) in spy.multiplied,
                module in called,
            )


def _is_product(module: nn.Module, inputs: tuple, keywords: dict[str, Any], output: Any) -> bool:
    """Whether a linear module's output is its input times the weight, plus the bias."""
    if not isinstance(module, nn.Linear | Conv1D) or not isinstance(output, Tensor):
        return False
    if module.weight.dtype not in FLOATS:  # quantized
        return True
    states = inputs[0] if inputs else next(iter(keywords.values()))
    weight = module.weight.T if isinstance(module, Conv1D) else module.weight
    if states.shape[-1] != weight.shape[1]:
        return False
    wanted = nn.functional.linear(states.to(weight), weight, module.bias)
    if wanted.shape != output.shape:
        return False
    error = (wanted.float() - output.float()).norm()
    return bool(error <= torch.finfo(weight.dtype).eps ** 0.5 * wanted.float().norm())


class _Products(TorchDispatchMode):
    """Notes which parameters take part in matrix products, through views and copies.

    Attributes:
        multiplied: ids of the parameters.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.multiplied: set[int] = set()
        self.owners: dict[int, int] = {}
        self.storages: list[StorageWeakRef] = []  # while they live, no address is used again
        for parameter in module.parameters():
            if parameter.ndim > 1:
                self._own(parameter, id(parameter))

    def __torch_dispatch__(
        self, function: Any, _types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        result = function(*arguments, **(keywords or {}))
        name = function.overloadpacket.__name__
        for argument in arguments:
            if isinstance(argument, Tensor) and (owner := self._owner(argument)) is not None:
                if PRODUCT.search(name):
                    self.multiplied.add(owner)
                elif name in COPIES and isinstance(result, Tensor):
                    self._own(result, owner)
        return result

    def _own(self, tensor: Tensor, owner: int) -> None:
        storage = tensor.untyped_storage()
        self.owners[storage._cdata] = owner
        self.storages.append(StorageWeakRef(storage))

    def _owner(self, tensor: Tensor) -> int | None:
        try:
            return self.owners.get(tensor.untyped_storage()._cdata)
        except (
            NotImplementedError,
            RuntimeError,
        ):  # tensors without a storage, such as sparse ones
            return None
