"""Reference log-probs, computed once for given weights and tokens, and kept on disk.

No reference model stays in memory. NPO and DPO need only one number of it per response token, which
does not change during training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from interp.model import LanguageModel, Tokens, adapters_merged
from interp.store import atomic_write, content_key
from unlearning.losses import reference_log_probs
from unlearning.training.mixture import Example, Mixture

# New adapters do not change the model, for any values of their random half.
_ADAPTER = "lora_"


def with_references(
    lm: LanguageModel,
    mixture: Mixture,
    needs: Collection[str],
    *,
    retained: bool = False,
    cache: Path | None = None,
    batch_size: int = 32,
) -> Mixture:
    """``mixture`` with all reference log-probs that its terms need.

    Args:
        lm: the prepared model before training.
        mixture: examples that already have reference log-probs keep them.
        needs: quantities that the terms name.
        retained: whether the retain examples need reference log-probs too.
        cache: folder of the cache; None computes them again.
        batch_size: rows in one forward.
    """
    if not (retained or {"reference", "preferred_reference"} & set(needs)):
        return mixture  # without hashing every weight
    fingerprint = lm.fingerprint(without=_ADAPTER) if cache is not None else ""

    def read_again(rows: Sequence[Tokens]) -> list[Tensor]:
        with adapters_merged(lm.model):
            return reference_log_probs(lm, rows, batch_size=batch_size)

    def log_probs(rows: Sequence[Tokens]) -> list[Tensor]:
        if cache is None:
            return read_again(rows)
        responses = [[row.ids, row.spans["response"].start] for row in rows]
        key = content_key("references", fingerprint, lm.configuration, responses)
        path = cache / f"reference-{key}.safetensors"
        try:
            return read(path)
        except (OSError, ValueError, RuntimeError, SafetensorError):  # absent or incomplete
            values = read_again(rows)
            write_references(path, values)
            return values

    def filled(examples: Sequence[Example], tokens: str, reference: str) -> Sequence[Example]:
        if all(getattr(one, reference) is not None for one in examples):
            return examples
        values: list[Any] = log_probs([getattr(one, tokens) for one in examples])
        return [
            one if getattr(one, reference) is not None else replace(one, **{reference: value})
            for one, value in zip(examples, values, strict=True)
        ]

    forget = mixture.forget
    if "reference" in needs:
        forget = filled(forget, "tokens", "reference")
    if "preferred_reference" in needs:
        forget = filled(forget, "preferred", "preferred_reference")
    retain = mixture.retain
    if retained:
        retain = {n: filled(group, "tokens", "reference") for n, group in retain.items()}
    return Mixture(forget, retain, ratio=mixture.ratio, seed=mixture.seed)


def write_references(path: Path, values: Sequence[Float[Tensor, " response"]]) -> None:
    """Rows of any lengths as one flat tensor and their lengths, in safetensors."""
    from safetensors.torch import save

    lengths = torch.tensor([len(row) for row in values])
    with atomic_write(path) as partial:
        partial.write_bytes(save({"flat": torch.cat(list(values)), "lengths": lengths}))


def read(path: Path) -> list[Float[Tensor, " response"]]:
    """Rows as :func:`write_references` wrote them.

    Raises:
        OSError, ValueError, RuntimeError, SafetensorError: the file is absent or incomplete.
    """
    from safetensors.torch import load_file

    stored = load_file(path)
    return list(stored["flat"].split(stored["lengths"].tolist()))
