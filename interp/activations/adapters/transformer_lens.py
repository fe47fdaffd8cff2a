"""TransformerLens as a backend: its hook points on a temporary copy of the model.

Wrapping a model in a ``TransformerBridge`` replaces its modules, renames its parameters and
switches it to eager attention; the model can then no longer be saved. The tokenizer changes too.
The backend therefore wraps copies of both, which needs memory for a second set of weights while the
backend is open.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.activations.backends import (
    Forward,
    States,
    by_site,
    refuse_edits,
    require_library,
    torch_hooks,
)
from interp.activations.positions import Take
from interp.activations.sites import (
    ATTENTION_OUT,
    HEADS,
    MLP_OUT,
    RESIDUAL_IN,
    RESIDUAL_MID,
    RESIDUAL_OUT,
    Site,
)
from interp.errors import InputError, ModelError, first_line
from interp.model import Batch, LanguageModel, copied, undisturbed

HOOK_POINTS = {
    RESIDUAL_IN.name: "hook_resid_pre",
    RESIDUAL_MID.name: "hook_resid_mid",
    RESIDUAL_OUT.name: "hook_resid_post",
    ATTENTION_OUT.name: "hook_attn_out",
    MLP_OUT.name: "hook_mlp_out",
    HEADS.name: "attn.hook_z",
}


@contextmanager
def transformer_lens(
    lm: LanguageModel, layers: Sequence[int], sites: Sequence[Site]
) -> Iterator[Forward]:
    """A backend that reads a ``TransformerBridge``; adapters are merged into its copy.

    Raises:
        InputError: inside an active intervention, with offloaded weights, for a custom site, or for
            a site that TransformerLens does not have in this model.
        ModelError: TransformerLens cannot wrap this model, or its states are not the model's.
    """
    refuse_edits(lm, "TransformerLens")
    unknown = [site.name for site in sites if site.name not in HOOK_POINTS]
    if unknown:
        raise InputError(
            f"TransformerLens has no hook point for {', '.join(unknown)}; "
            "collect with the default backend"
        )
    bridge = _bridge(lm)
    names = [f"blocks.{i}.{HOOK_POINTS[site.name]}" for site in sites for i in layers]
    missing = [name for name in names if name not in bridge.hook_dict]
    if missing:
        raise InputError(
            f"TransformerLens has no {missing[0]} in {type(lm.model).__name__}; "
            "collect with the default backend"
        )

    def forward(batch: Batch, take: Take) -> States:
        refuse_edits(lm, "TransformerLens")
        taken: dict[str, Tensor] = {}
        take = take.to(batch.input_ids.device)

        def keep(name: str) -> Any:
            def hook(states: Tensor, hook: Any) -> None:
                # TransformerLens stacks the heads here.
                taken[name] = take(states.reshape(*batch.input_ids.shape, -1))

            return name, hook

        with undisturbed(bridge):
            bridge.run_with_hooks(
                batch.input_ids,
                fwd_hooks=[keep(name) for name in names],
                return_type=None,
                stop_at_layer=max(layers) + 1,
                # Without them it attends to the padding and counts positions from the padding.
                **{key: value for key, value in lm.inputs(batch).items() if key != "input_ids"},
            )
        return by_site([taken[name] for name in names], layers, sites)

    _compare(lm, forward, layers, sites)
    yield forward


def _bridge(lm: LanguageModel) -> Any:
    require_library("transformer_lens", "TransformerLens")
    from transformer_lens.model_bridge import TransformerBridge

    model = merged_copy(lm)
    try:
        return TransformerBridge.boot_transformers(
            model.name_or_path or lm.name,
            hf_model=model,
            tokenizer=copy.deepcopy(lm.tokenizer),
            device=lm.device,
            dtype=model.dtype,  # float32 otherwise, whatever the model's is
        )
    except Exception as error:  # whatever its adapter of this architecture raises
        raise ModelError(
            f"TransformerLens cannot wrap {type(lm.model).__name__}: {first_line(error)}; "
            "collect with the default backend"
        ) from error


def _compare(
    lm: LanguageModel, forward: Forward, layers: Sequence[int], sites: Sequence[Site]
) -> None:
    """Compare TransformerLens's states with the model's, on one short prompt.

    Raises:
        ModelError: they differ by more than rounding.
    """
    rows = [lm.chat.encode("a")]
    take = Take.of(rows, [[slice(i, i + 1) for i in range(len(rows[0]))]], len(rows[0]))
    batch = lm.chat.pad(rows, lm.device)
    with torch_hooks(lm, layers, sites) as own:
        wanted = own(batch, take)
    found = forward(batch, take)
    limit = 2 * math.sqrt(max(torch.finfo(d).eps for d in (lm.model.dtype, torch.float32)))
    for site in sites:
        for layer, ours, theirs in zip(layers, wanted[site.name], found[site.name], strict=True):
            error = float(((theirs - ours).norm(dim=-1) / ours.norm(dim=-1)).max())
            if not error <= limit:
                raise ModelError(
                    f"TransformerLens differs from {type(lm.model).__name__} at {site.name} of "
                    f"layer {layer} by {error:.1e} of the states' length (at most {limit:.0e}); "
                    "collect with the default backend"
                )


def merged_copy(lm: LanguageModel) -> Any:
    """A copy of the model without the :class:`peft.PeftModel` wrapper, with the same outputs.

    Raises:
        InputError: offloaded weights, or adapters that are switched on in some layers only.
    """
    if any(parameter.is_meta for parameter in lm.model.parameters()):
        raise InputError(
            "a copy of the model needs its weights in memory, and some are offloaded; "
            "collect with the default backend"
        )
    from peft import PeftModel

    model: Any = copied(lm.model)
    if not isinstance(model, PeftModel):
        return model
    enabled = model.get_model_status().enabled
    if enabled == "irregular":
        raise InputError(
            "the adapter is on in some layers and off in others; switch it on or off as a whole"
        )
    return model.merge_and_unload() if enabled else model.unload()
