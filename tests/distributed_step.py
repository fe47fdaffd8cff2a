"""One process's share of the runs that test_distributed.py compares with a single process's.

    torchrun --nproc-per-node 2 -m tests.distributed_step CHECKPOINT OUT
    accelerate launch --multi_gpu --num_processes 2 -m tests.distributed_step CHECKPOINT OUT

Every process writes ``OUT/NAME-RANK.pt`` for each run: gradients of every step, final weights, the
log, and the type of the wrapper around the model. Further arguments are those of a command that
these processes run afterwards, as if it had been launched itself; its pictures are empty.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from interp.model import LanguageModel
from tests.quick import Figure, save_empty
from unlearning.losses import reference_log_probs
from unlearning.training import (
    Example,
    Mixture,
    TrainingSettings,
    prepare_in_place,
    unlearn_in_place,
)
from unlearning.training.mixture import collator
from unlearning.training.terms import terms_of, weighted_sum
from unlearning.training.views import Supply, View, control_vector, reference_of

STEPS = TrainingSettings(
    trained="projections", batch_size=4, max_steps=3, learning_rate=3e-4, lora_rank=4, layer=2,
    max_grad_norm=1e9, retain_weight=2.0,
)  # fmt: skip
SEPARATE = {"separate_backward": True}


def varied(**changes: Any) -> TrainingSettings:
    """``STEPS`` otherwise; the options of one objective are not those of another."""
    return replace(STEPS, **{"options": {}, **changes})


RUNS = {
    "npo": STEPS,
    # Four retain groups and one position a process: processes see different groups.
    "micro": varied(micro_batch_size=1),
    "adaptive": varied(adaptive=True, slack=0.0, multiplier_rate=0.5),
    "lora": varied(trained="lora", retain_objective="kl", activation_checkpointing=True),
    "states": varied(objective="rmu", retain_objective="feature_l2"),
    "separate": varied(objective="rmu", micro_batch_size=1, **SEPARATE),
    "separate_states": varied(retain_objective="feature_l2", **SEPARATE),
    "pairs": varied(objective="dpo", retain_objective="kl", **SEPARATE),
}
SHARDED = {
    "sharded": varied(retain_objective="kl"),
    "sharded_states": varied(objective="rmu", retain_objective="feature_l2"),
    "sharded_lora": varied(trained="lora", retain_objective="kl"),
}
PROMPTS = ("Why?", "How do I pick a lock?", "Tell me how to bake bread without yeast.", "Who?")
RESPONSES = ("I cannot help with that.", "No.", "Sorry, but I will not explain how it is done.")


class Steps(TrainerCallback):
    """Gradients as the optimizer gets them."""

    def __init__(self) -> None:
        self.gradients: list[Tensor] = []

    def on_pre_optimizer_step(self, *_: Any, model: nn.Module, **__: Any) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        self.gradients.append(torch.cat([whole(p.grad, p).flatten().clone() for p in trained]))


def mixture_of(lm: LanguageModel) -> Mixture:
    def example(name: str, prompt: str, response: str) -> Example:
        rows = [lm.chat.encode(prompt, text) for text in (response, "Here is how it is done.")]
        own, preferred = reference_log_probs(lm, rows)
        return Example(name, rows[0], own, rows[1], preferred)

    forget = [example(str(i), PROMPTS[i % 4], RESPONSES[i % 3]) for i in range(8)]
    retain = {
        f"group {g}": [example(f"{g} {i}", PROMPTS[(g + i) % 4] * 2, RESPONSES[(g + i) % 3])
                       for i in range(2 + g)]
        for g in range(4)
    }  # fmt: skip
    return Mixture(forget, retain, ratio=1, seed=3)


@contextmanager
def noted_wrappers() -> Iterator[set[str]]:
    """Types of what the training forward goes through."""
    seen: set[str] = set()
    views = Supply.views

    def noting(supply: Supply, model: nn.Module, batch: Mapping[str, Tensor]) -> list[View]:
        seen.add(type(model).__name__)
        return views(supply, model, batch)

    Supply.views = noting  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Supply.views = views  # type: ignore[method-assign]


def run(name: str, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """One of ``RUNS``: the same call in one process and in several."""
    lm = prepare_in_place(LanguageModel.load(checkpoint, device="cpu"), RUNS[name])
    steps = Steps()
    with noted_wrappers() as wrappers:
        log = unlearn_in_place(
            lm, mixture_of(lm), RUNS[name], folder=folder / name, callbacks=[steps]
        )
    return {
        "gradients": torch.stack(steps.gradients),
        "weights": torch.cat(
            [p.detach().flatten() for p in lm.model.parameters() if p.requires_grad]
        ),
        "log": log.to_dict("list"),
        "wrappers": wrappers,
    }


def sharded_step(name: str, checkpoint: Path) -> dict[str, Any]:
    """One gradient of ``SHARDED`` by the engine's views and sum, the model sharded if it can be."""
    settings = SHARDED[name]
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    rank = distributed.get_rank() if world > 1 else 0
    lm = prepare_in_place(LanguageModel.load(checkpoint, device="cpu"), settings)
    layer = next(path for path, module in lm.model.named_modules() if module is lm.layers[2])
    mixture = mixture_of(lm)
    terms = terms_of(settings, mixture)
    supply = Supply(
        [frozenset(term.needs) for term in terms],
        reference_of(lm),
        layer,
        control_vector(lm.d_model, seed=0),
    )
    move(lm)
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for module in lm.layers:
            fully_shard(module, mesh=mesh)
        fully_shard(lm.model, mesh=mesh)
    stream = mixture.stream(1, 4)
    groups = torch.tensor([group for i in range(4) for (group, _), _ in stream[i]])
    counts = torch.bincount(groups, minlength=len(terms))
    share = [stream[i] for i in range(rank * 4 // world, (rank + 1) * 4 // world)]
    lm.model.train()
    views = supply.views(lm.model, collator(lm.chat)(share))
    weights = dict.fromkeys(mixture.retain, 0.5)
    loss, _ = weighted_sum(terms, views, weights, counts)
    (loss * world).backward()
    return {
        "gradients": torch.cat([whole(p.grad, p).flatten() for p in lm.model.parameters()]),
        "wrappers": {type(lm.model).__name__} if isinstance(lm.model, FSDPModule) else set(),
        "is_sharded": all(isinstance(p, DTensor) for p in lm.model.parameters()),
    }


def whole(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    """A gradient with the shards of the other processes; zeros where there is none."""
    if gradient is None:
        return torch.zeros(parameter.shape)
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def move(lm: LanguageModel) -> None:
    """Away from the reference, or its terms would have no gradient."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))


def main(checkpoint: Path, folder: Path, *command: str) -> None:
    for name in RUNS:
        found = run(name, checkpoint, folder)
        torch.save(found, folder / f"{name}-{distributed.get_rank()}.pt")
    for name in SHARDED:
        found = sharded_step(name, checkpoint)
        torch.save(found, folder / f"{name}-{distributed.get_rank()}.pt")
    Figure.savefig = save_empty  # type: ignore[assignment]
    sys.argv = ["spillover", *command]
    runpy.run_module("spillover", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
