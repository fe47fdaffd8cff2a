"""Supply the quantities that an objective reads.

The engine supplies only the quantities that the objectives name (``registry.QUANTITIES``). It runs
one forward of the model. It runs the reference model only for batches with a term that reads the
reference's logits or states. Reference log-probs come with the examples, from the cache.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from interp.errors import InputError
from interp.model import (
    AS_EXPECTED,
    LanguageModel,
    SelfCheck,
    copied,
    in_parts,
    joined,
    reading,
    writing,
)
from unlearning.losses import response_logits, response_width, token_log_probs

View = Mapping[str, Tensor]
Reference = Callable[[], AbstractContextManager[nn.Module]]

OF_OUTPUTS = frozenset({"log_probs", "logits", "preferred_log_probs"})
"""Quantities of the last layer's output; their gradient reaches every trained parameter."""


@dataclass(frozen=True)
class Supply:
    """Makes the views of a batch.

    Attributes:
        needs: quantities that each group's term names, by the group's number.
        reference: context manager with the reference model's forward; None if no term needs it.
        layer: path of a layer, in the model and in the reference; ``states`` are its output.
        control: RMU's unit vector.
        takes_positions: whether the model's forward takes position ids.
        check: the model's self-check, which says what rows may share a forward.
    """

    needs: Sequence[frozenset[str]]
    reference: Reference | None = None
    layer: str = ""
    control: Float[Tensor, " d_model"] | None = None
    takes_positions: bool = True
    check: SelfCheck = AS_EXPECTED

    def views(self, model: nn.Module, batch: Mapping[str, Tensor]) -> list[View]:
        """One view per group; it is empty if the batch has no row of the group."""
        groups, preferred = torch.stack([batch["group"], batch["preferred"].long()]).tolist()
        needs = frozenset[str]().union(*(self.needs[number] for number in set(groups)))
        plain = {name.removeprefix("preferred_") for name in needs}
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if self.takes_positions:
            inputs["position_ids"] = batch["position_ids"]
        mask = batch["response_mask"]
        found = self._read(model, inputs, mask, plain & {"log_probs", "logits", "states"})
        found["reference"] = batch["reference"][:, -found["mask"].shape[1] :]
        theirs = plain & {"reference_logits", "reference_states"}
        if self.reference is not None and theirs:
            wanted = {name.removeprefix("reference_") for name in theirs}
            with torch.no_grad(), self.reference() as given:
                read = self._read(given, inputs, mask, wanted)
            found |= {f"reference_{name}": read[name] for name in wanted}
        chosen: dict[tuple[int, int], list[int]] = {}
        for row, side in enumerate(zip(groups, preferred, strict=True)):
            chosen.setdefault(side, []).append(row)
        return [self._of_group(found, number, chosen) for number in range(len(self.needs))]

    def _read(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        response_mask: Bool[Tensor, "batch token"],
        wanted: Collection[str],
    ) -> dict[str, Tensor]:
        kept = response_width(response_mask)
        parts = {}
        for rows, part in in_parts({**inputs, "response_mask": response_mask}, self.check):
            mask = part.pop("response_mask")
            width = kept if len(rows) == len(response_mask) else response_width(mask)
            parts[rows] = self._read_part(model, part, mask, wanted, width)
        names = next(iter(parts.values()))
        return {
            name: joined({rows: part[name] for rows, part in parts.items()}, kept) for name in names
        }

    def _read_part(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        response_mask: Bool[Tensor, "batch token"],
        wanted: Collection[str],
        kept: int,
    ) -> dict[str, Tensor]:
        """:meth:`_read` of rows that share a forward; ``kept`` is their responses' width."""
        found = {"mask": response_mask[:, -kept:]}
        states: list[Tensor] = []
        inner = model.module if isinstance(model, DistributedDataParallel) else model
        with ExitStack() as stack:
            if "states" in wanted:
                layer = inner.get_submodule(self.layer)
                stack.enter_context(reading([layer], lambda _, hidden: states.append(hidden)))
            if OF_OUTPUTS & set(wanted):
                logits, mask = response_logits(model, inputs, response_mask, self.check, kept=kept)
            else:
                # DistributedDataParallel finds the used parameters from the output. It must be the
                # state, or it would wait for gradients of the layers above it.
                stack.enter_context(writing(inner, lambda _logits: states[0]))
                model(**inputs, **self.check.keeping(1), use_cache=False)
        if "log_probs" in wanted:
            targets = inputs["input_ids"][:, -kept:]
            found["log_probs"] = token_log_probs(logits, targets, mask)
        if "logits" in wanted:
            found["logits"] = logits
        if "states" in wanted:
            # The layer may lie on another device than the inputs and their mask.
            found["states"] = states[0][:, -kept - 1 : -1].to(response_mask.device)
        return found

    def _of_group(
        self, found: View, number: int, chosen: Mapping[tuple[int, int], Sequence[int]]
    ) -> View:
        """The view of one group; ``chosen`` has the rows of (group, whether preferred)."""
        if not any(group == number for group, _ in chosen):
            return {}
        needs = self.needs[number]
        device = next(iter(found.values())).device
        # By row numbers: to pick rows by a mask, the host waits for the device.
        response, preferred = (
            torch.tensor(chosen.get((number, side), ()), dtype=torch.long, device=device)
            for side in (0, 1)
        )
        view = {name: value[response] for name, value in found.items() if name in needs}
        for name, value in found.items():
            if (name := f"preferred_{name}") in needs:
                view[name] = value[preferred]
        if self.control is not None and "control" in needs:
            view["control"] = self.control
        return view


def supply_of(
    lm: LanguageModel, needs: Sequence[frozenset[str]], layer: int | None, seed: int
) -> Supply:
    """What the terms of a run read from ``lm``.

    Args:
        lm: the prepared model.
        needs: quantities that each group's term names, by the group's number.
        layer: 0-based; objectives on states read its output. None is a quarter of the depth.
        seed: of RMU's direction.

    Raises:
        InputError: the model has no such layer.
    """
    every = frozenset[str]().union(*needs)
    path = ""
    if every & {"states", "reference_states"}:
        layer = lm.n_layers // 4 if layer is None else layer
        if not 0 <= layer < lm.n_layers:
            raise InputError(f"layer is {layer}; {lm.name} has layers 0 to {lm.n_layers - 1}")
        read = lm.layers[layer]
        path = next(name for name, module in lm.model.named_modules() if module is read)
    return Supply(
        needs,
        reference_of(lm) if every & {"reference_logits", "reference_states"} else None,
        path,
        control_vector(lm.d_model, seed).to(lm.device) if "control" in every else None,
        "position_ids" in lm.forward_options,
        lm.checked,
    )


def reference_of(lm: LanguageModel) -> Reference:
    """The model before training: with adapters switched off, or else as a copy.

    The call makes the copy and keeps it, so full fine-tuning with a term on reference logits or
    states needs memory for the weights twice.
    """
    from peft import PeftModel

    model = lm.model
    if isinstance(model, PeftModel):

        @contextmanager
        def without_adapter() -> Iterator[nn.Module]:
            with model.disable_adapter():
                yield model

        return without_adapter
    frozen = copied(model).eval().requires_grad_(False)
    return lambda: nullcontext(frozen)


def control_vector(d_model: int, seed: int) -> Float[Tensor, " d_model"]:
    """RMU's direction: uniform on [0, 1) in every coordinate, scaled to length 1."""
    drawn = torch.rand(d_model, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()
