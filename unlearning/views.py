"""What an objective may look at, and where it comes from.

The engine supplies what the objectives name (``registry.QUANTITIES``) and nothing else: one
forward of the model, and a second one of the reference only where its logits or states are asked
for. Reference log-probs come with the examples, from the cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.hooks import reading
from interp.model import LanguageModel
from unlearning.likelihood import response_logits, response_width, token_log_probs

View = Mapping[str, Tensor]
Reference = Callable[[], AbstractContextManager[nn.Module]]


@dataclass(frozen=True)
class Supply:
    """Makes the views of a batch.

    Attributes:
        needs: quantities that the run's terms name.
        reference: gives the reference model's forward, for a while; None where nothing needs it.
        layer: the decoder layer whose output ``states`` are.
        control: RMU's unit vector.
        takes_positions: whether the model's forward takes position ids.
    """

    needs: frozenset[str]
    reference: Reference | None = None
    layer: nn.Module | None = None
    control: Float[Tensor, " d_model"] | None = None
    takes_positions: bool = True

    def views(self, model: nn.Module, batch: Mapping[str, Tensor], groups: int) -> list[View]:
        """One view for each group; an empty one where the batch has no row of it."""
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        if self.takes_positions:
            inputs["position_ids"] = batch["position_ids"]
        own = self._read(model, inputs, batch["response_mask"], ("log_probs", "logits", "states"))
        found = {**own, "reference": batch["reference"][:, -own["mask"].shape[1] :]}
        if self.reference is not None:
            with torch.no_grad(), self.reference() as given:
                theirs = self._read(
                    given,
                    inputs,
                    batch["response_mask"],
                    ("reference_logits", "reference_states"),
                )
            found |= {name: value for name, value in theirs.items() if name != "mask"}
        return [self._of_group(found, batch, number) for number in range(groups)]

    def _read(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        response_mask: Bool[Tensor, "batch token"],
        names: tuple[str, ...],
    ) -> dict[str, Tensor]:
        wanted = {name.removeprefix("reference_"): name for name in names if self._wants(name)}
        kept = response_width(response_mask)
        states: list[Tensor] = []
        with self._watching(states) if "states" in wanted else nullcontext():
            logits, mask = response_logits(model, inputs, response_mask)
        found = {"mask": mask}
        if "log_probs" in wanted:
            targets = inputs["input_ids"][:, -kept:]
            found["log_probs"] = token_log_probs(logits, targets, mask)
        if "logits" in wanted:
            found[wanted["logits"]] = logits
        if "states" in wanted:
            found[wanted["states"]] = states[0][:, -kept - 1 : -1]
        return found

    def _wants(self, name: str) -> bool:
        return name in self.needs or f"preferred_{name}" in self.needs

    @contextmanager
    def _watching(self, states: list[Tensor]) -> Iterator[None]:
        assert self.layer is not None
        with reading([self.layer], lambda _layer, hidden: states.append(hidden)):
            yield

    def _of_group(self, found: View, batch: Mapping[str, Tensor], number: int) -> View:
        rows = batch["group"] == number
        if not rows.any():
            return {}
        response, preferred = rows & ~batch["preferred"], rows & batch["preferred"]
        view = {name: value[response] for name, value in found.items() if name in self.needs}
        for name, value in found.items():
            if (name := f"preferred_{name}") in self.needs:
                view[name] = value[preferred]
        if self.control is not None:
            view["control"] = self.control
        return view


def reference_of(lm: LanguageModel) -> Reference:
    """The model as it was given, by the cheapest means: adapters switched off, or else a copy.

    The copy is made here and now, before training, and held: full fine-tuning with a term on
    reference logits or states costs the weights once more.
    """
    from peft import PeftModel

    model = lm.model
    if isinstance(model, PeftModel):

        @contextmanager
        def without_adapter() -> Iterator[nn.Module]:
            with model.disable_adapter():
                yield model

        return without_adapter
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    return lambda: nullcontext(frozen)


def control_vector(d_model: int, seed: int) -> Float[Tensor, " d_model"]:
    """RMU's direction: uniform on [0, 1) in every coordinate, scaled to length 1."""
    drawn = torch.rand(d_model, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()
