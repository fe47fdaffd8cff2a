"""nnsight as a backend: traces of the model itself, here or on NDIF.

nnsight does not change the model, but it reads a module before torch hooks run, so it ignores an
intervention by hooks. With ``remote=True`` the model runs on NDIF (https://ndif.us), which serves
models that are too large for local machines. NDIF needs an API key.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from interp.activations.backends import Forward, States, by_site, refuse_edits, require_library
from interp.activations.positions import Take
from interp.activations.sites import Site, points
from interp.errors import InputError
from interp.model import Batch, Chat, LanguageModel, Point, undisturbed

# The sites of a layer in the order of the forward; a trace can read them only in this order.
ORDER = ("residual_in", "heads", "attention_out", "residual_mid", "mlp_out", "residual_out")


@contextmanager
def nnsight(
    lm: LanguageModel, layers: Sequence[int], sites: Sequence[Site], *, remote: bool = False
) -> Iterator[Forward]:
    """A backend that traces the model, including adapters inside its modules.

    Args:
        remote: run on NDIF, by the model's hub id. Untested: built to the documented call.

    Raises:
        InputError: inside an active intervention, for a custom site, for an adapter outside the
            modules, or for a local adapter with a model on NDIF.
    """
    refuse_edits(lm, "nnsight")
    unknown = [site.name for site in sites if site.name not in ORDER]
    if unknown:
        raise InputError(
            f"a trace reads in the order of the forward, and the place of {', '.join(unknown)} in "
            "this order is unknown; collect with the default backend"
        )
    inner = _without_wrapper(lm, remote=remote)
    traced = _traced(lm, inner, remote=remote)
    names = {module: name for name, module in inner.named_modules()}
    found = dict(zip((site.name for site in sites), points(lm, layers, sites), strict=True))
    met = [(name, i) for i in range(len(layers)) for name in ORDER if name in found]
    envoys = [_envoy(traced, names, found[name][i]) for name, i in met]

    def forward(batch: Batch, take: Take) -> States:
        refuse_edits(lm, "nnsight")
        with undisturbed(lm.model):
            taken = _trace(traced, envoys, lm.inputs(batch), take.rows, take.columns, remote)
        by_place = dict(zip(met, map(take.mean, taken), strict=True))
        rows = [by_place[site.name, i] for site in sites for i in range(len(layers))]
        return by_site(rows, layers, sites)

    yield forward


def elsewhere(source: str, *, revision: str | None = None, **chat_options: Any) -> LanguageModel:
    """A hub model that runs on NDIF: its shape and tokenizer are local, its weights are not.

    Untested together with NDIF.

    Args:
        source: hub id.
        revision: branch, tag or commit on the hub.
        **chat_options: passed to :class:`interp.model.Chat`.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(source, revision=revision)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    return LanguageModel(model.eval(), tokenizer, Chat(tokenizer, **chat_options), source)


def _trace(
    traced: Any,
    envoys: Sequence[tuple[Any, bool]],
    inputs: dict[str, Tensor],
    rows: Tensor,
    columns: Tensor,
    remote: bool,
) -> list[Tensor]:
    """States of every envoy at some columns. NDIF runs this block as plain torch code."""
    from nnsight import save

    shape = inputs["input_ids"].shape
    with traced.trace(**inputs, use_cache=False, remote=remote) as tracer:
        kept: list[Tensor] = save([])
        for envoy, before in envoys:
            states = envoy.input if before else envoy.output
            states = states[0] if isinstance(states, tuple) else states
            states = states.reshape(*shape, -1)
            kept.append(states[rows.to(states.device), columns.to(states.device)])
        tracer.stop()
    return list(kept)


def _without_wrapper(lm: LanguageModel, *, remote: bool) -> Any:
    from peft import PeftModel

    model: Any = lm.model
    if not isinstance(model, PeftModel):
        return model
    if remote:
        raise InputError("the adapter is here and the model on NDIF; collect without remote=True")
    if model.active_peft_config.is_prompt_learning:
        raise InputError(
            f"{model.peft_type} puts tokens before the prompt, outside the modules that nnsight "
            "traces; collect with the default backend"
        )
    return model.get_base_model()


def _traced(lm: LanguageModel, inner: Any, *, remote: bool) -> Any:
    require_library("nnsight", "nnsight")
    from nnsight import TransformersModel

    if remote:
        return TransformersModel(inner.name_or_path, task="text-generation")
    # It sets the tokenizer's padding.
    tokenizer = copy.deepcopy(lm.tokenizer)
    return TransformersModel(inner, tokenizer=tokenizer, task="text-generation")


def _envoy(traced: Any, names: dict[Any, str], point: Point) -> tuple[Any, bool]:
    def step(envoy: Any, part: str) -> Any:
        return envoy[int(part)] if part.isdigit() else getattr(envoy, part)

    return reduce(step, names[point.module].split("."), traced), point.before
