"""One type for a causal language model with its tokenizer and chat format.

``LanguageModel.load`` takes a hub id, a local folder or an adapter folder. It merges an adapter at
once, so "the given model" always means the user's model and never its base model. The constructor
wraps a model that is already in memory.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import InputError, ModelError, first_line
from interp.model.batching import fitting, is_out_of_memory
from interp.model.chat import Batch, Chat, Tokens
from interp.model.checks import check_model
from interp.model.context import context_length, require_room
from interp.model.forwards import logits_of_last
from interp.model.kept_checks import check_loaded
from interp.model.loading import check_source, load_error, load_merged
from interp.model.self_check import SelfCheck

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Of what is found out about a model, the names of what its weights do not change.
BEHAVIOUR = ("checked", "shortcuts")
# Settings that decide nothing of what weights compute, or differ between equal checkpoints.
UNREAD = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"),
    *("auto_map", "quantization_config", "use_cache", "_commit_hash"),
)
SMALLER = (
    "stop other programs on this device, choose another with --device, or load a smaller model or "
    "a checkpoint of it in fewer bits, such as bfloat16"
)


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, its tokenizer and its chat format.

    Attributes:
        model: a Hugging Face causal language model.
        tokenizer: its fast tokenizer.
        chat: renders prompts and responses, and names the spans of their tokens.
        name: in tables and figures.
        layers_path: module path of the decoder layers, if they are not found automatically.

    Example:
        >>> lm.n_layers, lm.d_model, str(lm.device)
        (5, 128, 'cpu')
        >>> sorted(lm.chat.encode("How do I bake bread?").spans)
        ['instruction', 'post_instruction', 'response_prefix', 'system']
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: Chat
    name: str = "model"
    layers_path: str | None = field(default=None, kw_only=True)

    def __repr__(self) -> str:
        millions = sum(one.numel() for one in self.model.parameters()) / 1e6
        return (
            f"{type(self).__name__}({self.name}: {type(self.model).__name__}, {millions:,.1f} M "
            f"parameters, {self.model.dtype} on {self.model.device})"
        )

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        revision: str | None = None,
        dtype: torch.dtype | str = "auto",
        device: str | torch.device | None = None,
        trust_remote_code: bool = False,
        layers_path: str | None = None,
        like: LanguageModel | None = None,
        **chat_options: Any,
    ) -> LanguageModel:
        """Load a model by hub id, local folder, adapter folder or GGUF file, in eval mode.

        Args:
            source: hub id, folder or GGUF file. An adapter folder is merged into its base. A GGUF
                file is dequantised; it needs the extra ``gguf``.
            revision: branch, tag or commit on the hub.
            dtype: a torch dtype, or ``"auto"`` for the checkpoint's dtype (float32 for GGUF).
            device: defaults to CUDA if available, otherwise to the CPU.
            trust_remote_code: run model code that comes with the checkpoint.
            layers_path: module path of the decoder layers, if they are not found automatically.
            like: a model that differs in its weights only; its self-check is taken over.
            **chat_options: passed to :class:`interp.model.chat.Chat`.

        Raises:
            ModelError: the source is not a causal language model, is gated, or cannot be read.
            InputError: the device does not exist.
            MachineError: the model, or a short forward of it, does not fit into memory.
        """
        check_source(source)
        device = usable_device(device)
        options = {"revision": revision, "trust_remote_code": trust_remote_code}
        with fitting(str(source), "cpu", SMALLER):
            model, tokenizer = _read(source, dtype, options)
        model = moved(model, device, source).eval()
        chat = Chat(tokenizer, **chat_options)
        name = Path(source).name if Path(source).exists() else str(source)
        lm = cls(model, tokenizer, chat, name, layers_path=layers_path)
        with fitting(f"a forward of {source}", device, SMALLER):
            found = like.behaviour if like else {"checked": check_loaded(lm, source)}
        lm.found_out.update(found)
        for line in lm.checked.lines():
            warnings.warn(f"self-check of {name}: {line}", stacklevel=2)
        return lm

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        device = next(self.model.parameters()).device
        # Offloaded weights are on the meta device between forwards; accelerate moves the inputs.
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config(decoder=True).hidden_size)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    @cached_property
    def layers(self) -> nn.ModuleList:
        """The decoder layers: layer i's output is the residual stream after 0-based layer i."""
        return find_layers(self.model, self.layers_path)

    @cached_property
    def forward_options(self) -> frozenset[str]:
        """Names of the arguments that the model's forward takes."""
        # A PeftModel accepts any argument; the wrapped model's signature decides.
        inner = getattr(self.model, "get_base_model", lambda: self.model)()
        return frozenset(inspect.signature(inner.forward).parameters)

    @cached_property
    def found_out(self) -> dict[str, Any]:
        """A cache of expensive facts about the model, with the lifetime of the model."""
        return {}

    @property
    def behaviour(self) -> dict[str, Any]:
        """The part of ``found_out`` that holds for other weights too."""
        known = self.found_out
        return {name: copy.copy(known[name]) for name in BEHAVIOUR if name in known}

    def with_model(self, model: Any) -> LanguageModel:
        """The same with a model that differs in its weights only, or has adapters on them."""
        other = replace(self, model=model)
        other.found_out.update(self.behaviour)
        return other

    @property
    def checked(self) -> SelfCheck:
        """The model's self-check: run when it is loaded, or when it is first needed."""
        if "checked" not in self.found_out:
            self.found_out["checked"] = check_model(self)
        found: SelfCheck = self.found_out["checked"]
        return found

    def together(self, rows: Sequence[Sized], *, decoding: bool = False) -> list[int] | None:
        """Which rows may share a forward: those with the same number; all of them if ``None``.

        Args:
            rows: tokens; only their lengths are used.
            decoding: for generation instead of a single forward.
        """
        if len(rows) < 2:
            return None
        return self.checked.together([len(row) for row in rows], decoding=decoding)

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Keyword arguments of the model's forward for ``batch``; position ids where taken.

        Raises:
            InputError: a row is longer than the model's context.
        """
        self._require_room(batch)
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        if "position_ids" in self.forward_options:
            inputs["position_ids"] = batch.position_ids
        return inputs

    def _require_room(self, batch: Batch) -> None:
        limit = context_length(self.model.config)
        if limit is not None and batch.input_ids.shape[1] > limit:
            real = batch.attention_mask.bool()
            rows = [
                Tokens(tuple(ids[mask].tolist()), {})
                for ids, mask in zip(batch.input_ids, real, strict=True)
            ]
            require_room(self.model, self.tokenizer, rows)

    def logits(self, batch: Batch, *, keep: int) -> Float[Tensor, "batch keep vocab"]:
        """Logits of the last ``keep`` columns, through the model's forward.

        It does not call the trunk and the head separately, because the forward applies soft caps
        and logit scales (Gemma 2, Cohere, Granite).
        """
        return logits_of_last(self.model, self.inputs(batch), keep, self.checked)

    @property
    def configuration(self) -> str:
        """A hash of the settings that decide what the weights compute, for cache keys."""
        held = self.model.config.to_diff_dict()
        told = {name: value for name, value in held.items() if name not in UNREAD}
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()

    def fingerprint(self, *, without: str | None = None) -> str:
        """A hash of the weights that changes when any of them changes, for cache keys.

        Weights with ``without`` in their names are left out.
        """
        digest = hashlib.sha256()
        for name, parameter in sorted(self.model.state_dict().items()):
            if without is not None and without in name:
                continue
            digest.update(f"{name}{tuple(parameter.shape)}{parameter.dtype}".encode())
            digest.update(parameter.detach().flatten().view(torch.uint8).cpu().numpy())
        return digest.hexdigest()


def _read(source: str | Path, dtype: torch.dtype | str, options: Mapping[str, Any]) -> Any:
    """:func:`~interp.model.loading.load_merged`, with its errors explained, except full memory."""
    try:
        return load_merged(source, dtype, options)
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise load_error(source, error) from error


def moved(model: Any, device: torch.device, source: str | Path) -> Any:
    """The model on a device; ``source`` names it in the error.

    Raises:
        MachineError: it does not fit there.
    """
    with fitting(str(source), device, SMALLER):
        return model.to(device)


def usable_device(name: str | torch.device | None) -> torch.device:
    """The named device; by default CUDA if available, otherwise the CPU.

    Raises:
        InputError: the device does not exist here.
    """
    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"there is no device {wanted} here ({first_line(error)}); give cpu, or one "
            "that torch finds on this machine"
        ) from error
    return device


ADAPTED = "base_model.model."  # where PEFT puts the model


def find_layers(model: nn.Module, path: str | None = None) -> nn.ModuleList:
    """The decoder layers: the only outermost ModuleList with the config's number of layers.

    If a multimodal model has several, it is the one in its text decoder. A model with an adapter
    keeps the ``path`` that its layers have without it.

    Raises:
        ModelError: there is none or more than one (name it with ``path``), or none at ``path``.
    """
    if path is not None:
        # Inside an adapter, the model that the path belongs to is deeper.
        inner = getattr(model, "get_base_model", lambda: model)()
        try:
            layers = inner.get_submodule(path.removeprefix(ADAPTED))
        except AttributeError as error:
            raise ModelError(f"there is no module {path}: {error}; see named_modules()") from error
        if not isinstance(layers, nn.ModuleList):
            raise ModelError(f"{path} is a {type(layers).__name__}, expected a ModuleList")
        return layers
    count = model.config.get_text_config(decoder=True).num_hidden_layers  # type: ignore[union-attr, operator]
    # A configuration may count what is in a layer; the self-check sees whether these are all.
    found = _outermost_lists(model, count) or _outermost_lists(model)
    if len(found) > 1 and (decoder := getattr(model, "get_decoder", lambda: None)()) is not None:
        inside = set(decoder.modules())
        found = {name: module for name, module in found.items() if module in inside} or found
    if len(found) != 1:
        raise ModelError(
            f"expected one list of {count} decoder layers in {type(model).__name__}, "
            f"found {len(found)} ({', '.join(found) or 'none'}); name it with layers_path"
        )
    return next(iter(found.values()))


def _outermost_lists(model: nn.Module, count: int | None = None) -> dict[str, nn.ModuleList]:
    """ModuleLists that lie in no other one: of ``count`` modules, or of several of one class.

    Without a count, their modules have modules in them.
    """
    found: dict[str, nn.ModuleList] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        if count is None:
            alike = len(module) > 1 == len(set(map(type, module)))
            fits = alike and any(True for _ in module[0].children())
        else:
            fits = len(module) == count
        if fits and not any(name.startswith(outer + ".") for outer in found):
            found[name] = module
    return found
