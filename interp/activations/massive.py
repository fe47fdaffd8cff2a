r"""Massive activations: tokens whose state is many times longer than the others' (Sun et al. 2024).

In many pretrained models the first token, and sometimes a delimiter, gets a state whose norm is a
hundred times that of other tokens, from some early layer on. Later tokens attend to it as to a
constant bias. An edit at every token along any direction changes this state, and with it attention
everywhere. The result then says little about the direction. So edits at all tokens spare such
tokens; see :mod:`interp.interventions.steering`.

**The rule.** A token is massive at a layer if the norm of its state there is more than
:data:`FACTOR` times the layer's reference. The reference is the median norm over the tokens of a
few neutral sentences, measured once per loaded model. The median does not see the massive tokens,
and a decision depends on the token's own state only: padding, the other rows of a batch and a cache
do not change it. Sun et al. define single entries (above 100, and 1,000 times the median entry);
the norm follows the same entries, and it needs no unit and no basis.

**Earlier layers.** A massive state arises at one layer from an ordinary state below it, and an edit
of that state may prevent it. So if the first token of every sentence becomes massive at some layer,
the first token of a row is spared at all layers. A delimiter is spared from the layer at which it
is massive.

Source: Sun, Chen, Kolter and Liu 2024, "Massive Activations in Large Language Models", arXiv
2402.17762.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.collection import encoded_all
from interp.model import (
    LanguageModel,
    Tokens,
    context_length,
    hidden_into,
    hidden_of,
    probing,
    stopping_after,
    undisturbed,
)

if TYPE_CHECKING:
    import pandas as pd

# Ordinary tokens stay within a factor of 2 to 4 of their layer's median; massive ones are found at
# 30 to 150 times it.
FACTOR = 10.0
MOST_TOKENS = 64  # of a neutral sentence in its template
SENTENCES = (
    "How do I bake bread at home? I have flour, water, salt and some yeast.",
    "The train left the station at nine. It was late, but nobody on it seemed to mind.",
    "Please explain, in three steps, how a bicycle pump works.",
)


@dataclass(frozen=True)
class StreamNorms:
    """Median norm of the residual stream over ordinary tokens, by layer, in the states' unit.

    Attributes:
        into: of the states that enter each layer.
        out: of the states that leave it.
        first_token: whether the first token becomes massive at some layer, whatever follows it.
    """

    into: tuple[float, ...]
    out: tuple[float, ...]
    first_token: bool

    def limit_into(self, layer: int) -> float:
        """The norm above which a state that enters the layer is massive."""
        return _limit(self.into[layer])

    def limit_in(self, layer: int) -> float:
        """The norm above which a state inside the layer, or at its output, is massive."""
        return _limit(max(self.into[layer], self.out[layer]))


def _limit(median: float) -> float:
    return FACTOR * median if 0 < median < np.inf else np.inf


@dataclass(frozen=True)
class MassiveActivations:
    """The tokens of massive activation among some prompts.

    Attributes:
        norms: norm of the state that enters each layer, one array for each prompt.
        medians: the reference of each layer.
        tokens: text of each token, by prompt.
    """

    norms: tuple[Float[np.ndarray, "layer token"], ...]
    medians: tuple[float, ...]
    tokens: tuple[tuple[str, ...], ...]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per prompt, token and layer: ``prompt``, ``token``, ``index`` (from the prompt's
        start), ``layer``, ``norm``, ``ratio`` to the layer's median.
        """
        import pandas as pd

        rows = []
        for number, (norms, texts) in enumerate(zip(self.norms, self.tokens, strict=True)):
            limits = np.array([_limit(median) for median in self.medians])
            for layer, index in np.argwhere(norms > limits[:, None]):
                norm = float(norms[layer, index])
                ratio = norm / self.medians[layer]
                rows.append((number, texts[index], int(index), int(layer), norm, ratio))
        return pd.DataFrame(rows, columns=["prompt", "token", "index", "layer", "norm", "ratio"])

    def __bool__(self) -> bool:
        return not self.to_dataframe().empty

    def __str__(self) -> str:
        table = self.to_dataframe()
        if table.empty:
            largest = max(
                float((norms / np.array(self.medians)[:, None]).max()) for norms in self.norms
            )
            return f"none; the longest state is {largest:.1f} times its layer's median"
        parts = []
        for (index, token), rows in table.groupby(["index", "token"], sort=True):
            place = "the first token" if index == 0 else f"token {index}"
            layers = sorted(set(rows["layer"]))
            parts.append(
                f"{place} {token!r} in {rows['prompt'].nunique()} of {len(self.norms)} prompts, "
                f"layers {layers[0]} to {layers[-1]}, up to {rows['ratio'].max():,.0f} times the "
                "layer's median"
            )
        more = f"; and {len(parts) - 3} more" if len(parts) > 3 else ""
        return "; ".join(parts[:3]) + more

    __repr__ = __str__


def massive_activations(
    lm: LanguageModel, texts: Sequence[str | Tokens] | None = None
) -> MassiveActivations:
    """Find the tokens of massive activation in prompts, at the input of every layer.

    Edits at all tokens (``sp.ablate``, ``sp.add``, ``sp.set_component``) spare these tokens.

    Args:
        lm: the model, without its active interventions.
        texts: prompts, or tokens from ``lm.chat.encode``; a few neutral sentences by default. Of a
            prompt longer than the model's context, its beginning is read.

    Returns:
        ``str()`` names the tokens and layers; ``bool()`` tells whether there are any;
        ``.to_dataframe()`` has a row for each token and layer.

    Source:
        Sun et al. 2024, arXiv 2402.17762. The rule is in :mod:`interp.activations.massive`.

    Example:
        >>> bool(sp.massive_activations(lm))
        False
    """
    rows = encoded_all(lm, () if texts is None else texts)
    if not rows:
        return _reference(lm)[1]
    return _examined(lm, [_norms(lm, row)[0] for row in rows], rows, stream_norms(lm))


def stream_norms(lm: LanguageModel) -> StreamNorms:
    """The median norms of a model's stream, from three short forwards of the unedited model."""
    return _reference(lm)[0]


def _reference(lm: LanguageModel) -> tuple[StreamNorms, MassiveActivations]:
    if "stream norms" not in lm.found_out:
        rows = [Tokens(lm.chat.encode(text).ids[:MOST_TOKENS], {}) for text in SENTENCES]
        parts = [_norms(lm, row) for row in rows]
        into, out = (
            tuple(np.median(np.concatenate(side, axis=1), axis=1).tolist())
            for side in zip(*parts, strict=True)
        )
        norms = StreamNorms(into, out, first_token=False)
        limits = np.array([norms.limit_into(layer) for layer in range(lm.n_layers)])
        entering = [entered for entered, _ in parts]
        first = all((entered[:, 0] > limits).any() for entered in entering)
        found = _examined(lm, entering, rows, norms)
        lm.found_out["stream norms"] = replace(norms, first_token=first), found
    known: tuple[StreamNorms, MassiveActivations] = lm.found_out["stream norms"]
    return known


def _examined(
    lm: LanguageModel,
    norms: Sequence[Float[np.ndarray, "layer token"]],
    rows: Sequence[Tokens],
    reference: StreamNorms,
) -> MassiveActivations:
    names = tuple(tuple(str(lm.tokenizer.decode([i])) for i in row.ids) for row in rows)
    return MassiveActivations(tuple(norms), reference.into, names)


def is_massive(
    states: Float[Tensor, "*batch d_model"],
    limit: float,
    inserted: Float[Tensor, "vector d_model"] | None = None,
) -> Bool[Tensor, "*batch 1"]:
    """Whether each state is longer than ``limit``, outside the span of ``inserted`` rows.

    ``inserted`` is an orthonormal basis of what other interventions add to the states.
    """
    wide = states.detach().to(torch.promote_types(states.dtype, torch.float32))
    if inserted is not None:
        basis = inserted.to(wide)
        wide = wide - (wide @ basis.T) @ basis
    return torch.linalg.vector_norm(wide, dim=-1, keepdim=True) > limit


def _norms(
    lm: LanguageModel, row: Tokens
) -> tuple[Float[np.ndarray, "layer token"], Float[np.ndarray, "layer token"]]:
    """Norms of what enters and leaves each layer, of the model without interventions."""
    into: dict[int, Tensor] = {}
    out: dict[int, Tensor] = {}

    def before(layer: int, _module: Any, arguments: tuple, keywords: dict[str, Any]) -> None:
        into[layer] = _lengths(hidden_into(arguments, keywords))

    def after(layer: int, _module: Any, _inputs: Any, output: Any) -> None:
        out[layer] = _lengths(hidden_of(output))

    shortened = Tokens(row.ids[: context_length(lm.model.config)], {})
    with ExitStack() as stack:
        stack.enter_context(undisturbed(lm.model))
        stack.enter_context(probing())
        stack.enter_context(torch.no_grad())
        for i, layer in enumerate(lm.layers):
            hook = layer.register_forward_pre_hook(partial(before, i), with_kwargs=True)
            stack.callback(hook.remove)
            stack.callback(layer.register_forward_hook(partial(after, i)).remove)
        stack.enter_context(stopping_after(lm.layers[-1]))
        # Not ``lm.logits``, which first checks the model with forwards that must not stop. Of all
        # columns: some models give their last layers only the kept ones (Gemma 4).
        lm.model(**lm.inputs(lm.chat.pad([shortened], lm.device)), use_cache=False)
    return (
        np.stack([into[i].cpu().numpy() for i in range(lm.n_layers)]),
        np.stack([out[i].cpu().numpy() for i in range(lm.n_layers)]),
    )


def _lengths(states: Tensor) -> Float[Tensor, " token"]:
    flat = states.detach().reshape(-1, states.shape[-1])
    wide = flat.to(torch.promote_types(flat.dtype, torch.float32))
    return torch.linalg.vector_norm(wide, dim=-1)
