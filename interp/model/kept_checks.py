"""Self-checks on the disk, one for each checkpoint and each version of the code that runs it."""

from __future__ import annotations

import hashlib
import inspect
import json
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.model.checks import check_model
from interp.model.generation_checks import decoding_batches
from interp.model.probes import run
from interp.model.self_check import SCHEMA, SelfCheck
from interp.model.stream_checks import stream_fault
from interp.store import file_hash, read_json, user_cache, write_json

if TYPE_CHECKING:
    from torch import nn

    from interp.model.language_model import LanguageModel

PACKAGES = ("torch", "transformers", "tokenizers")
#: The code that checks: with other prompts or limits it may find something else.
CHECKING = tuple(
    Path(inspect.getfile(one)) for one in (check_model, decoding_batches, run, stream_fault)
)


def check_loaded(lm: LanguageModel, source: str | Path) -> SelfCheck:
    """The self-check of the model that was loaded from ``source``; run where none is kept."""
    checkpoint = _checkpoint_key(lm, source)
    if checkpoint is None:
        return check_model(lm)
    kept = user_cache("checks") / f"{_name(checkpoint)}-{_key(lm)}.json"
    try:
        return SelfCheck.from_json(read_json(kept))
    except (OSError, ValueError, TypeError, KeyError):
        found = check_model(lm)
    with suppress(OSError, InputError):  # it is a cache
        write_json(kept, found.to_json())
    return found


def last_check(source: str | Path) -> SelfCheck | None:
    """The kept self-check of a checkpoint in a folder, without loading it; None if none is kept."""
    try:
        checkpoint = _checkpoint_key(None, source)
        kept = list(user_cache("checks").glob(f"{_name(checkpoint)}-*.json")) if checkpoint else []
        newest = max(kept, key=lambda path: path.stat().st_mtime_ns, default=None)
        return None if newest is None else SelfCheck.from_json(read_json(newest))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _name(checkpoint: list[Any]) -> str:
    text = json.dumps([SCHEMA, *map(file_hash, CHECKING), checkpoint])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checkpoint_key(lm: LanguageModel | None, source: str | Path) -> list[Any] | None:
    """What changes when a checkpoint does, without reading weights; None where nothing does."""
    path = Path(source)
    if not path.exists():
        commit = lm and getattr(lm.model.config, "_commit_hash", None)
        return [str(source), commit] if commit else None
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    key: list[Any] = [str(path.resolve())]
    key += [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    adapter = path / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        inner = _checkpoint_key(lm, base)
        return None if inner is None else [*key, inner]
    return key


def _key(lm: LanguageModel) -> str:
    """What runs a checkpoint: versions, device, and the code of its modules."""
    parts = [
        {package: version(package) for package in PACKAGES},
        str(lm.model.dtype),
        lm.device.type,
        str(getattr(lm.model.config, "_attn_implementation", None)),
        lm.layers_path,
    ]
    digest = hashlib.sha256(json.dumps(parts, default=str).encode())
    for kind in sorted({type(m) for m in lm.model.modules()}, key=lambda one: one.__qualname__):
        digest.update(_code_of(kind))
    return digest.hexdigest()[:16]


def _code_of(kind: type[nn.Module]) -> bytes:
    """The compiled forward of a class: another one may have other properties."""
    code = getattr(inspect.unwrap(kind.forward), "__code__", None)
    return repr((kind.__module__, kind.__qualname__, code and code.co_code)).encode()
