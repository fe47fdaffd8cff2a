"""Low-rank slices: LoRA adapters divided among domains, and gradients routed to them.

The adapter of a linear weight W adds B·A·x, with A of shape (rank, in) and B of shape (out, rank).
Slice d is an equal part of A's rows with the same part of B's columns, in all adapted weights. With
gradient routing (Cloud et al. 2410.04332) a training row changes only some slices:

    h = M ⊙ (A x) + (1 − M) ⊙ (Ā x)        B·A·x  →  B (M ⊙ h) + B̄ ((1 − M) ⊙ h)

where M is 1 in the slices that the row trains and a bar means "without gradient". The value and the
gradient in x are those of the plain adapter; only the gradients in A and B are masked. Deleting a
slice takes its part of B·A out of the weights of the finished model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from interp.errors import InputError, ModelError
from interp.model import LanguageModel, linear_weights
from interp.store import read_json, write_json

Row = tuple[int, ...]
"""The token ids of a training row, without padding."""

ROUTED = "routed"
CIRCUITS = ("shared", ROUTED)
FOLDER = "slices"  # inside a model's folder
TENSORS, NAMES = "slices.safetensors", "slices.json"
INPUT, OUTPUT = ".A", ".B"
OTHERWISE = "give --circuits shared"


class Slices:
    """The slices of a model with LoRA adapters.

    Args:
        model: a PEFT model; its adapters' rank is a multiple of the number of slices.
        names: one name for each slice.

    Raises:
        InputError: the rank cannot be divided, or a weight is adapted as a parameter (fused
            experts), where the rows of a batch have no separate adapter states.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self.model, self.names = model, tuple(names)
        self.adapters = dict(_adapters(model))
        ranks = {one.reading.weight.shape[0] for one in self.adapters.values()}
        if len(ranks) != 1 or min(ranks) % len(self.names):
            raise InputError(
                f"adapters of rank {', '.join(map(str, sorted(ranks)))} cannot be divided into "
                f"{len(self.names)} equal slices; give a multiple"
            )
        self.width = min(ranks) // len(self.names)
        self._trained: Bool[Tensor, "row 1 rank"] | None = None  # what each row trains
        self._on: Bool[Tensor, "row 1 rank"] | None = None  # what each row uses; None: all

    @contextmanager
    def rows(
        self, trained: Bool[Tensor, "row slice"], on: Bool[Tensor, "row slice"] | None = None
    ) -> Iterator[None]:
        """Inside, every forward is of rows that train these slices.

        Args:
            trained: the slices that have a gradient from each row.
            on: the slices that each row has, among them those that it trains; None for all.
        """
        with self._hooked():
            self._trained = self._mask(trained)
            self._on = None if on is None else self._mask(on)
            try:
                yield
            finally:
                self._trained = self._on = None

    @contextmanager
    def owned(self, owners: Mapping[Row, str]) -> Iterator[None]:
        """Inside, a row that is among ``owners`` trains its owner's slice only, others train all.

        Rows are recognised by their token ids, so batches may be padded, mixed and split. Forwards
        without gradients are untouched.
        """
        places = {row: self.names.index(name) for row, name in owners.items()}

        def look(_module: nn.Module, _arguments: tuple, given: dict[str, Any]) -> None:
            if not torch.is_grad_enabled():
                self._trained = None
                return
            ids, kept = given["input_ids"], given["attention_mask"].bool()
            trained = torch.ones(len(ids), len(self.names), dtype=torch.bool)
            for i, (row, mask) in enumerate(zip(ids, kept, strict=True)):
                if (place := places.get(tuple(row[mask].tolist()))) is not None:
                    trained[i] = torch.arange(len(self.names)) == place
            self._trained = self._mask(trained)

        with self._hooked(), ExitStack() as stack:
            stack.enter_context(self.model.register_forward_pre_hook(look, with_kwargs=True))
            try:
                yield
            finally:
                self._trained = None

    def save(self, folder: Path) -> None:
        """Write the slices into ``folder/slices``, so that each can be deleted from the model."""
        from safetensors.torch import save_file

        (folder / FOLDER).mkdir(exist_ok=True)
        tensors = {}
        for place, one in self.adapters.items():
            tensors[place + INPUT] = (one.scale * one.reading.weight.detach()).cpu().contiguous()
            tensors[place + OUTPUT] = one.writing.weight.detach().cpu().contiguous()
        save_file(tensors, folder / FOLDER / TENSORS)
        write_json(folder / FOLDER / NAMES, {"names": self.names, "rank": self.width})

    def _mask(self, trained: Bool[Tensor, "row slice"]) -> Bool[Tensor, "row 1 rank"]:
        device = next(self.model.parameters()).device
        return trained.repeat_interleave(self.width, dim=1)[:, None].to(device)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            for place, one in self.adapters.items():
                stack.enter_context(one.reading.register_forward_hook(self._read(place)))
                stack.enter_context(one.writing.register_forward_hook(self._write))
            yield

    def _read(self, place: str) -> Callable[[nn.Module, tuple, Tensor], Tensor | None]:
        def read(module: nn.Module, inputs: tuple, states: Tensor) -> Tensor | None:
            trained = self._trained
            if trained is None:
                return None
            if states.ndim != 3 or len(states) != len(trained):
                raise ModelError(
                    f"gradients cannot be routed by rows: {place} reads a tensor of shape "
                    f"{tuple(inputs[0].shape)} in a batch of {len(trained)} rows; {OTHERWISE}"
                )
            frozen = nn.functional.linear(inputs[0], module.get_parameter("weight").detach())
            routed = torch.where(trained, states, frozen)
            return routed if self._on is None else routed * self._on

        return read

    def _write(self, module: nn.Module, inputs: tuple, _output: Tensor) -> Tensor | None:
        if self._trained is None:
            return None
        states, trained = inputs[0], self._trained
        weight = module.get_parameter("weight")
        mine = nn.functional.linear(states * trained, weight)
        return mine + nn.functional.linear(states * ~trained, weight.detach())


@dataclass(frozen=True)
class _Adapter:
    reading: nn.Linear
    writing: nn.Linear
    scale: float


def _adapters(model: nn.Module) -> Iterator[tuple[str, _Adapter]]:
    """Every adapted weight's place in the base model, with its adapter."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    for path, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        place = path.removeprefix("base_model.model.").replace(".base_layer", "")
        if isinstance(module, ParamWrapper):
            raise InputError(
                f"gradients cannot be routed by rows through {place}, which is adapted as a "
                f"parameter; {OTHERWISE}"
            )
        [name] = module.lora_A
        reading: Any = module.lora_A[name]
        writing: Any = module.lora_B[name]
        yield place, _Adapter(reading, writing, float(module.scaling[name]))


def slice_names(folder: str | Path) -> tuple[str, ...]:
    """The names of the slices that a model's folder keeps.

    Raises:
        InputError: it keeps none.
    """
    path = Path(folder) / FOLDER / NAMES
    if not path.is_file():
        raise InputError(
            f"{folder} keeps no slices; give a model organism made with --circuits, or a taught "
            "model"
        )
    return tuple(read_json(path, ("names", "rank"))["names"])


@contextmanager
def slice_deleted(lm: LanguageModel, folder: str | Path, name: str) -> Iterator[None]:
    """Inside, ``lm`` is without one of its slices; afterwards its weights are bit-equal.

    Args:
        lm: the model in ``folder``, with the slices in its weights.
        folder: of the model; its ``slices`` are read.
        name: of the slice.

    Raises:
        InputError: the folder keeps no such slice, or they are of another model.
    """
    from safetensors.torch import load_file

    names = slice_names(folder)
    if name not in names:
        raise InputError(f"{folder} has no slice {name}; it has {', '.join(names)}")
    tensors = load_file(Path(folder) / FOLDER / TENSORS)
    values = {one.place: (one.value, one.reads_last) for one in linear_weights(lm)}
    wanted = [key.removesuffix(INPUT) for key in tensors if key.endswith(INPUT)]
    if missing := [place for place in wanted if place not in values]:
        raise InputError(f"the slices in {folder} are of another model: no weight {missing[0]}")
    kept: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for place in wanted:
                value, reads_last = values[place]
                first, second = tensors[place + INPUT], tensors[place + OUTPUT]
                width = len(first) // len(names)
                part = slice(names.index(name) * width, (names.index(name) + 1) * width)
                change = (second[:, part].double() @ first[part].double()).to(value)
                kept[place] = value.detach().clone()
                value.sub_(change if reads_last else change.T)
        yield
    finally:
        with torch.no_grad():
            for place, before in kept.items():
                values[place][0].copy_(before)
