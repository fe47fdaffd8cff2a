r"""Directional ablation as a change of weights (Arditi et al. 2024, section 2.4, equation 5).

The module projects every matrix that writes to the residual stream,
:math:`W \leftarrow W - \hat r \hat r^\top W`: token and position embeddings, the last matrix of
attention and of the MLP, and their biases. The resulting model has the same outputs as under
:func:`interp.interventions.steering.ablate`, without hooks. If the embedding is tied to the
unembedding, the module unties them first, so the unembedding does not change.

Some models (for instance Gemma 2) have a norm between a block's last matrix and the stream. The
norm's weights change the direction of the matrix's output, so no projection equals the ablation.
Such models raise an error. Any other model raises an error if its projected weights differ in
effect from the hook; each call tests this on a few tokens.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.activations import ATTENTION_OUT, HEADS, MLP_OUT, points
from interp.errors import InputError, ModelError
from interp.interventions.edits import Vectors, orthonormal_basis
from interp.interventions.steering import project_out
from interp.model import LanguageModel, undisturbed

# Largest relative difference in logits between weights and hook, by the dtype of the weights.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.05}


def orthogonalise(lm: LanguageModel, vectors: Vectors) -> LanguageModel:
    """A copy of the model that cannot write along a direction, or into the span of several.

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
    copied = replace(lm, model=copy.deepcopy(lm.model))
    _project(copied, orthonormal_basis(vectors))
    _compare(copied, _ablated_logits(lm, vectors))
    return copied


@contextmanager
def orthogonalised(lm: LanguageModel, vectors: Vectors) -> Iterator[None]:
    """The model itself, with projected weights inside the block and its original ones afterwards.

    This copies only the matrices that write to the stream, not the whole model. Do not train inside
    the block.

    Raises:
        ModelError: no projection of this model's weights equals the hook.
    """
    wanted = _ablated_logits(lm, vectors)
    own = {name: parameter.data for name, parameter in lm.model.named_parameters()}
    head, config = lm.model.get_output_embeddings(), lm.model.config.get_text_config(decoder=True)
    unembedding = head.weight
    configs = [one for one in (lm.model.config, config) if hasattr(one, "tie_word_embeddings")]
    tied = [one.tie_word_embeddings for one in configs]
    try:
        _project(lm, orthonormal_basis(vectors))
        _compare(lm, wanted)
        yield
    finally:
        head.weight = unembedding
        for one, was in zip(configs, tied, strict=True):
            one.tie_word_embeddings = was
        for name, data in own.items():
            lm.model.get_parameter(name).data = data


def _project(lm: LanguageModel, basis: Float[Tensor, "rank d_model"]) -> None:
    writers = _find_writers(lm)
    _untie(lm)
    for module in writers:
        for name, weight in module.named_parameters(recurse=False):
            # Assign a new tensor, so modules that share the old one keep its values.
            module.get_parameter(name).data = _projected(weight.data, basis, _width_axis(module))


def _projected(
    weight: Float[Tensor, "..."], basis: Float[Tensor, "rank d_model"], axis: int
) -> Float[Tensor, "..."]:
    wide = torch.promote_types(weight.dtype, torch.float32)
    values = weight.to(wide).movedim(axis if weight.ndim > 1 else 0, -1)
    values = values - (values @ basis.to(values).T) @ basis.to(values)
    return values.movedim(-1, axis if weight.ndim > 1 else 0).to(weight).contiguous()


def _width_axis(module: nn.Module) -> int:
    """The axis of a module's matrix along which it writes."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return 0
    if isinstance(module, nn.Embedding | Conv1D):
        return 1
    raise ModelError(
        f"the last matrix of a block is a {type(module).__name__}, whose weights are not known to "
        "be projected; use the hook: with ablate(lm, direction)"
    )


def _find_writers(lm: LanguageModel) -> list[nn.Module]:
    """Modules whose weights write to the residual stream."""
    if hasattr(lm.model, "peft_config"):
        raise ModelError("an adapter is around the model; merge it before its weights are changed")
    layers = range(lm.n_layers)
    try:
        attention_out, mlp_out, heads = points(lm, layers, [ATTENTION_OUT, MLP_OUT, HEADS])
    except InputError as error:
        raise ModelError(f"not every matrix that writes is known: {error}") from error
    called = _called(lm)
    writers: list[nn.Module] = [
        module
        for module in called
        if isinstance(module, nn.Embedding) and module.embedding_dim == lm.d_model
    ]
    for i in layers:
        inside = set(lm.layers[i].modules())
        # Attention ends before the MLP ends, also in parallel layers.
        last = [m for m in called if m in inside and any(p.ndim > 1 for p in m.parameters())][-1]
        for added, matrix in ((attention_out[i], heads[i].module), (mlp_out[i], last)):
            if next(added.module.parameters(), None) is not None and (
                matrix not in added.module.modules()
            ):
                raise ModelError(
                    f"{type(lm.model).__name__} has a {type(added.module).__name__} between a "
                    "block's last matrix and the residual stream, so no weights equal the "
                    "ablation; use the hook: with ablate(lm, direction)"
                )
            writers.append(matrix)
    return writers


def _called(lm: LanguageModel) -> list[nn.Module]:
    """Modules that directly hold weights, in the order in which they are last called."""
    order: dict[nn.Module, None] = {}

    def note(module: nn.Module, *_: object) -> None:
        order.pop(module, None)
        order[module] = None

    with ExitStack() as stack:
        for module in lm.model.modules():
            if any(True for _ in module.parameters(recurse=False)):
                stack.enter_context(module.register_forward_hook(note))
        _some_logits(lm)
    return list(order)


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
    with project_out(lm, vectors):
        return _some_logits(lm)


def _compare(changed: LanguageModel, wanted: Float[Tensor, " vocab"]) -> None:
    error = ((_some_logits(changed) - wanted).norm() / wanted.norm()).item()
    tolerance = TOLERANCE.get(changed.model.dtype, 0.0)
    if not error <= tolerance:
        raise ModelError(
            f"projected weights are {error:.1e} from the ablated model's logits (at most "
            f"{tolerance:.0e}): {type(changed.model).__name__} writes to its residual stream in "
            "some other way too; use the hook: with ablate(lm, direction)"
        )


def _some_logits(lm: LanguageModel) -> Float[Tensor, " vocab"]:
    with undisturbed(lm.model):
        return lm.logits(lm.chat.pad([lm.chat.encode("a")], lm.device), keep=1)[0, -1].double()
