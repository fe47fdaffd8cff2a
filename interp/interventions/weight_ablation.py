r"""Directional ablation as a change of weights (Arditi et al. 2024, section 2.4, equation 5).

The module projects every matrix that writes to the residual stream,
:math:`W \leftarrow W - \hat r \hat r^\top W`: token and position embeddings, the last matrices of
attention, of the MLP and of experts, and their biases. The resulting model has the same outputs as
under :func:`interp.interventions.steering.ablate`, without hooks. If the embedding is tied to the
unembedding, the module unties them first, so the unembedding does not change.

The writers are found by what they do. Under the hook with some random directions, the projection of
a writer by the same directions changes nothing; that of any other matrix changes the logits.

Some models (for instance Gemma 2) have a norm between a block's last matrix and the stream. The
norm's weights change the direction of the matrix's output, so no projection equals the ablation.
Such models raise an error, because their projected weights differ in effect from the hook; each
call tests this on a short prompt.

Weights cannot spare single tokens. In a model with massive activations
(:mod:`interp.activations.massive`), projected weights therefore change the massive tokens too, and
attention at every token. Then the change measures more than the direction: a random direction
already has an effect. A call warns of this and names the tokens; the hook spares them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.activations import massive_activations
from interp.errors import ModelError
from interp.interventions.edits import Vectors, orthonormal_basis
from interp.interventions.steering import project_out
from interp.model import (
    LanguageModel,
    copied,
    doubled,
    linear_weights,
    probe_tokens,
    require_plain_weights,
    undisturbed,
)

TRIALS = 256  # random directions by which writers are found; few would change too little
# Largest relative difference in logits between weights and hook, by the dtype of the weights.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}


def orthogonalise(lm: LanguageModel, vectors: Vectors) -> LanguageModel:
    """A copy of the model that cannot write along a direction, or into the span of several.

    Weights cannot spare tokens. In a model with massive activations, this changes the massive
    tokens too, unlike ``sp.ablate``; it warns and names them. Then compare with a random direction.

    Args:
        lm: the model, with adapters merged; it does not change.
        vectors: a direction (d_model) or several (vector, d_model).

    Raises:
        ModelError: no projection of this model's weights equals the hook.

    Source:
        Weight orthogonalisation: Arditi et al. 2024, arXiv 2406.11717, section 2.4.

    Example:
        >>> changed = sp.orthogonalise(lm, dirs["safety", 2])
        >>> changed.model is lm.model
        False
    """
    _require_plain(lm)
    _warn_of_massive(lm)
    changed = lm.with_model(copied(lm.model))
    _project(changed, orthonormal_basis(vectors))
    _compare(changed, _ablated_logits(lm, vectors))
    return changed


def _require_plain(lm: LanguageModel) -> None:
    require_plain_weights(lm.model, "orthogonalisation", "use the hook: with ablate(lm, direction)")


def _warn_of_massive(lm: LanguageModel) -> None:
    found = massive_activations(lm)
    if found:
        warnings.warn(
            f"{lm.name} has massive activations ({found}); projected weights change these tokens "
            "too, and with them attention everywhere. Compare with a random direction, or use the "
            "hook, which spares them: with ablate(lm, direction)",
            stacklevel=3,
        )


def _project(lm: LanguageModel, basis: Float[Tensor, "rank d_model"]) -> None:
    if hasattr(lm.model, "peft_config"):
        raise ModelError("an adapter is around the model; merge it before its weights are changed")
    _untie(lm)
    for writer in _find_writers(lm):
        # A new tensor, so that modules which share the old one keep its values.
        writer.parameter.data = _projected(writer.parameter.data, basis, writer.axis)


def _projected(
    weight: Float[Tensor, "..."], basis: Float[Tensor, "rank d_model"], axis: int
) -> Float[Tensor, "..."]:
    wide = torch.promote_types(weight.dtype, torch.float32)
    values = weight.to(wide).movedim(axis, -1)
    values = values - (values @ basis.to(values).T) @ basis.to(values)
    return values.movedim(-1, axis).to(weight).contiguous()


@dataclass(frozen=True)
class _Writer:
    """A parameter that may write to the residual stream, along one of its axes."""

    parameter: nn.Parameter
    axis: int


def _find_writers(lm: LanguageModel) -> list[_Writer]:
    """The parameters that write to the residual stream."""
    generator = torch.Generator().manual_seed(0)
    rank = min(max(lm.d_model // 4, 1), TRIALS)
    trial = orthonormal_basis(torch.randn(rank, lm.d_model, generator=generator))
    wanted = _ablated_logits(lm, trial)
    found: list[_Writer] = []
    for candidates in _candidates(lm).values():
        own = [one.parameter.data for one in candidates]
        for one in candidates:
            one.parameter.data = _projected(one.parameter.data, trial, one.axis)
        changed = _distance(_ablated_logits(lm, trial), wanted)
        for one, data in zip(candidates, own, strict=True):
            one.parameter.data = data
        if changed <= _tolerance(lm):
            found += candidates
    return found


def _candidates(lm: LanguageModel) -> dict[str, list[_Writer]]:
    """Parameters as wide as the stream along the axis that they write, by kind of module.

    A matrix and its bias are one kind, in all layers and experts.
    """
    read_last = {id(one.value): one.reads_last for one in linear_weights(lm)}
    head = lm.model.get_output_embeddings()
    found: dict[str, list[_Writer]] = {}
    for path, module in lm.model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if module is head or all(parameter.ndim < 2 for parameter in own.values()):
            continue  # a norm, for instance
        for name, parameter in own.items():
            multiplies = read_last.get(id(parameter), isinstance(module, nn.Linear))
            axis = -2 if multiplies and parameter.ndim > 1 else -1
            if not parameter.is_floating_point() or parameter.shape[axis:][:1] != (lm.d_model,):
                continue
            kind = ".".join(part for part in path.split(".") if not part.isdigit())
            if len(own) > 2 or "weight" not in own:
                kind += f".{name}"
            found.setdefault(kind, []).append(_Writer(parameter, axis))
    return found


def _untie(lm: LanguageModel) -> None:
    head = lm.model.get_output_embeddings()
    shared = head.weight
    assert isinstance(shared, nn.Parameter)
    if shared is lm.model.get_input_embeddings().weight:
        head.weight = nn.Parameter(shared.data, requires_grad=shared.requires_grad)
        for config in (lm.model.config, lm.model.config.get_text_config(decoder=True)):
            if hasattr(config, "tie_word_embeddings"):  # some composite configurations have none
                config.tie_word_embeddings = False


def _ablated_logits(lm: LanguageModel, vectors: Vectors) -> Float[Tensor, " vocab"]:
    with project_out(lm, vectors, include_massive=True):  # weights cannot spare tokens
        return _some_logits(lm)


def _compare(changed: LanguageModel, wanted: Float[Tensor, " vocab"]) -> None:
    error = _distance(_some_logits(changed), wanted)
    if not error <= _tolerance(changed):
        raise ModelError(
            f"no weights of {type(changed.model).__name__} equal the ablation: with every matrix "
            f"projected that writes to the residual stream, logits are {error:.1e} from the "
            f"ablated model's (at most {_tolerance(changed):.0e}); a norm or a scale follows such "
            "a matrix, or something else writes; use the hook: with ablate(lm, direction)"
        )


def _tolerance(lm: LanguageModel) -> float:
    return TOLERANCE.get(lm.model.dtype, 0.0)


def _distance(found: Float[Tensor, " vocab"], wanted: Float[Tensor, " vocab"]) -> float:
    return ((found - wanted).norm() / wanted.norm()).item()


def _some_logits(lm: LanguageModel) -> Float[Tensor, " vocab"]:
    with undisturbed(lm.model):
        return doubled(lm.logits(lm.chat.pad([probe_tokens(lm)], lm.device), keep=1)[0, -1])
