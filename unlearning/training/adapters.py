"""LoRA adapters on every linear weight of the decoder layers.

PEFT's ``all-linear`` looks for ``nn.Linear`` by name and class: it misses fused experts, and in
some families drops shared experts and dense MLPs. Here every linear weight of the layers gets an
adapter, routers included; nothing outside the layers does. A weight that its module reads in any
other way than an ``nn.Linear`` (fused experts, routers that return several values) is adapted as a
parameter: PEFT then adds B·A to the weight itself.

Some weights cannot be adapted: PEFT refuses them, or they are read outside their module, where an
adapter has no effect. They stay frozen, and :class:`unlearning.training.coverage.Coverage` names
them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import InputError, ModelError
from interp.model import LanguageModel, LinearWeight, linear_weights, probe_tokens
from unlearning.training.precision import compute_as_inputs

if TYPE_CHECKING:
    from peft import LoraConfig

FROZEN = "frozen"  # where a prepared model keeps why its linear weights without adapter have none
# Why a linear weight stays frozen.
REFUSED = "PEFT refuses it"
FAILS = "its adapter fails in the forward"
OUTSIDE = "read outside its module"
# PEFT merges an adapter around a module, and forgets the adapters inside it.
NESTED = "held by a module of modules"
UNREACHED = "no gradient reaches it"
EXCLUDED = "left out"


@dataclass(frozen=True)
class Targets:
    """Which weights get adapters, and why others do not.

    Attributes:
        modules: weights whose module is wrapped.
        parameters: weights that are adapted as parameters.
        frozen: why each other linear weight stays as it is.
        outside: modules outside the layers whose names end as a target's does.
    """

    modules: tuple[LinearWeight, ...]
    parameters: tuple[LinearWeight, ...]
    frozen: Mapping[LinearWeight, str]
    outside: tuple[str, ...] = ()

    @property
    def weights(self) -> tuple[LinearWeight, ...]:
        return (*self.modules, *self.parameters)

    def without(self, frozen: Mapping[LinearWeight, str]) -> Targets:
        """The same without some weights."""
        return replace(
            self,
            modules=tuple(weight for weight in self.modules if weight not in frozen),
            parameters=tuple(weight for weight in self.parameters if weight not in frozen),
            frozen={**self.frozen, **frozen},
        )

    def config(self, rank: int, alpha: float) -> LoraConfig:
        """PEFT's configuration for these weights."""
        from peft import LoraConfig

        return LoraConfig(
            r=rank,
            lora_alpha=int(alpha),
            lora_dropout=0.0,
            target_modules=[weight.place for weight in self.modules],
            target_parameters=[weight.name for weight in self.parameters] or None,
            exclude_modules=list(self.outside) or None,
            task_type="CAUSAL_LM",
        )


def lora_in_place(
    lm: LanguageModel,
    *,
    rank: int,
    alpha: float,
    seed: int,
    targets: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> LanguageModel:
    """Adapters of ``rank`` on the linear weights of the layers; all else is frozen.

    Args:
        lm: changed in place.
        rank, alpha: of the adapters.
        seed: of their random half.
        targets: names of modules to adapt, such as ``q_proj`` or ``experts``; empty means all.
        exclude: names of modules to leave out.

    Raises:
        InputError: a name fits no module.
        ModelError: no weight can be adapted.
    """
    chosen = _chosen(lm, targets, exclude)
    while chosen.weights:
        adapted = _inject(lm, chosen.config(rank, alpha), seed)
        outside = _outside(adapted, chosen)
        failed = {} if outside else _failing(adapted, chosen)
        if not (failed or outside):
            adapted.found_out[FROZEN] = chosen.frozen
            return adapted
        adapted.model.unload()  # type: ignore[operator]
        if failed and set(failed.values()) == {FAILS}:
            failed = _failing_alone(lm, chosen, rank, alpha) or failed
        chosen = replace(chosen.without(failed), outside=(*chosen.outside, *outside))
    why = sorted({f"{kind(weight.place)}: {said}" for weight, said in chosen.frozen.items()})
    raise ModelError(
        f"no weight of {lm.name} can have an adapter ({'; '.join(why)}); give --trainable all"
    )


def adapter_inputs(lm: LanguageModel) -> dict[str, Float[Tensor, "*expert rank width"]]:
    """(α/r)·A of every linear weight of the layers, by its place in the base model.

    Where B is still 0, a gradient in LoRA's space is that of B, and B reads nothing but this times
    the weight's input. Weights without an adapter have one row of zeros; a model without adapters
    has no entry.
    """
    found = {}
    for name, module in _adapters(lm.model).items():
        [adapter] = module.lora_A
        matrix = module.scaling[adapter] * module.lora_A[adapter].weight.detach()
        if getattr(module, "num_experts", 1) > 1:  # an adapter of fused experts
            matrix = matrix.reshape(module.num_experts, -1, matrix.shape[-1])
        found[name.removesuffix(".weight")] = matrix
    for weight in lm.found_out.get(FROZEN, ()):
        width = weight.value.shape[-1 if weight.reads_last else -2]
        found[weight.place] = torch.zeros(1, width, device=weight.value.device)
    return found


def unmoved_at_first(lm: LanguageModel) -> set[str]:
    """Names of LoRA's A where B is 0: their gradient is 0, so the first step does not move them."""
    named = dict(lm.model.named_parameters())
    seconds = {name: name.replace(".lora_A.", ".lora_B.") for name in named if ".lora_A." in name}
    return {first for first, second in seconds.items() if not named[second].any()}


def adapted_weights(model: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of the base model that have an adapter."""
    for name, module in _adapters(model).items():
        yield getattr(module.get_base_layer(), name.rpartition(".")[2])


def fits(pattern: str, name: str) -> bool:
    """Whether a module's name contains the dotted parts of ``pattern`` in a row."""
    wanted, parts = pattern.split("."), [part for part in name.split(".") if not part.isdigit()]
    return any(
        all(fnmatch(part, want) for part, want in zip(parts[start:], wanted, strict=False))
        for start in range(len(parts) - len(wanted) + 1)
    )


def _chosen(lm: LanguageModel, targets: Sequence[str], exclude: Sequence[str]) -> Targets:
    weights = linear_weights(lm)
    for pattern in (*targets, *exclude):
        if not any(fits(pattern, weight.place) for weight in weights):
            kinds = ", ".join(dict.fromkeys(kind(weight.place) for weight in weights))
            raise InputError(
                f"no linear module in the layers of {lm.name} is called {pattern}; there are "
                f"{kinds}"
            )
    accepted = _accepted(lm, weights)
    modules: list[LinearWeight] = []
    parameters: list[LinearWeight] = []
    frozen: dict[LinearWeight, str] = {}
    for weight in weights:
        left_out = any(fits(pattern, weight.place) for pattern in exclude)
        if left_out or (targets and not any(fits(pattern, weight.place) for pattern in targets)):
            frozen[weight] = EXCLUDED
        elif weight.is_outside:
            frozen[weight] = OUTSIDE
        elif any(True for child in weight.module.children() for _ in child.parameters()):
            frozen[weight] = NESTED
        elif accepted[_stub(weight)] is None:
            frozen[weight] = REFUSED
        else:
            (modules if accepted[_stub(weight)] == "module" else parameters).append(weight)
    return Targets(tuple(modules), tuple(parameters), frozen)


def _stub(weight: LinearWeight) -> tuple[str, str, bool, int]:
    """What PEFT's answer depends on: names, class and number of axes."""
    leaf = weight.name.split(".")[-2]
    return leaf, weight.parameter, weight.is_plain, weight.value.ndim


def _accepted(lm: LanguageModel, weights: Sequence[LinearWeight]) -> dict[Any, str | None]:
    """How PEFT adapts each kind of weight: ``module``, ``parameter`` or not at all.

    It is asked with a model of one small module, because it answers by raising in the middle of its
    work, and because it renames some targets without a word.
    """
    found: dict[Any, str | None] = {}
    for weight in weights:
        stub = _stub(weight)
        if stub not in found:
            ways = ("module", "parameter") if weight.is_plain else ("parameter",)
            found[stub] = next((way for way in ways if _takes(lm, weight, way)), None)
    return found


def _takes(lm: LanguageModel, weight: LinearWeight, way: str) -> bool:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    leaf = weight.name.split(".")[-2]
    small: nn.Module
    if weight.is_plain:
        small = type(weight.module)(2, 2)
    else:
        small = nn.Module()
        setattr(small, weight.parameter, nn.Parameter(torch.zeros([2] * weight.value.ndim)))
    stub = nn.Module()
    stub.layers = nn.ModuleList([nn.Module()])
    stub.layers[0].add_module(leaf, small)
    stub.config = lm.model.config  # type: ignore[assignment]
    place = f"layers.0.{leaf}"
    config = LoraConfig(
        r=1,
        target_modules=[place] if way == "module" else [],
        target_parameters=[f"{place}.{weight.parameter}"] if way == "parameter" else None,
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            inject_adapter_in_model(config, stub)
    except (ValueError, TypeError, RuntimeError, NotImplementedError):
        return False
    return isinstance(stub.layers[0].get_submodule(leaf), LoraLayer)


def _inject(lm: LanguageModel, config: LoraConfig, seed: int) -> LanguageModel:
    from peft import get_peft_model

    with torch.random.fork_rng(), warnings.catch_warnings():
        # Of PEFT's notes on transposed weights and on a second attempt, none needs an answer.
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(lm.model, config)
    compute_as_inputs(adapted)
    # The adapter must find its base from any working folder, and the same commit of it.
    for one in adapted.peft_config.values():
        one.revision = getattr(lm.model.config, "_commit_hash", None)
        if one.base_model_name_or_path and Path(one.base_model_name_or_path).exists():
            one.base_model_name_or_path = str(Path(one.base_model_name_or_path).absolute())
    return lm.with_model(adapted)


def _outside(lm: LanguageModel, targets: Targets) -> tuple[str, ...]:
    """Modules that got an adapter and are not among the targets: PEFT compares ends of names."""
    wanted = {weight.name for weight in targets.weights}
    return tuple(name.rpartition(".")[0] for name in _adapters(lm.model) if name not in wanted)


def _failing(lm: LanguageModel, targets: Targets) -> dict[LinearWeight, str]:
    """Weights whose adapters have no effect on the logits, or break the forward."""
    adapters = _adapters(lm.model)
    if missing := [weight for weight in targets.weights if weight.name not in adapters]:
        return dict.fromkeys(missing, REFUSED)
    seconds = [adapters[weight.name].lora_B for weight in targets.weights]
    matrices = [matrix.weight for second in seconds for matrix in second.values()]
    try:
        return dict.fromkeys(without_gradient(lm, targets.weights, matrices), UNREACHED)
    except (AttributeError, TypeError, RuntimeError, ValueError, ModelError):
        if not targets.parameters:
            raise
        return dict.fromkeys(targets.parameters, FAILS)


def without_gradient(
    lm: LanguageModel, weights: Sequence[LinearWeight], tensors: Sequence[Tensor]
) -> list[LinearWeight]:
    """Weights that the short prompt's forward reads without a gradient.

    Args:
        lm: the model, prepared.
        weights: linear weights.
        tensors: what trains for each of them: the weight itself, or an adapter's matrix.
    """
    tokens = probe_tokens(lm)
    logits = lm.logits(lm.chat.pad([tokens], lm.device), keep=2).float()
    gradients = torch.autograd.grad(logits.square().sum(), tensors, allow_unused=True)
    found = zip(weights, gradients, strict=True)
    return [weight for weight, gradient in found if gradient is None and weight.is_read]


def _failing_alone(
    lm: LanguageModel, targets: Targets, rank: int, alpha: float
) -> dict[LinearWeight, str]:
    """Of the weights that are adapted as parameters, those whose kind fails without the others."""
    kinds: dict[str, list[LinearWeight]] = {}
    for weight in targets.parameters:
        kinds.setdefault(kind(weight.place), []).append(weight)
    found: dict[LinearWeight, str] = {}
    for weights in kinds.values():
        alone = replace(targets, modules=(), parameters=tuple(weights))
        adapted = _inject(lm, alone.config(rank, alpha), 0)
        found |= {w: said for w, said in _failing(adapted, alone).items() if said == FAILS}
        adapted.model.unload()  # type: ignore[operator]
    return found


def _adapters(model: nn.Module) -> dict[str, Any]:
    """PEFT's module around every adapted weight, by the weight's name in the base model."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    found = {}
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer):
            name = path.removeprefix("base_model.model.").replace(".base_layer", "")
            parameter = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            found[f"{name}.{parameter}"] = module
    return found


def kind(place: str) -> str:
    """The last two parts of a weight's place, without numbers: ``self_attn.q_proj``."""
    return ".".join([part for part in place.split(".") if not part.isdigit()][-2:])
