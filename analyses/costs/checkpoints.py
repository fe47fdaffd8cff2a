"""Parameters and bytes of a model, from the headers of its weight files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Weights:
    """The weights of a model as it is loaded.

    Attributes:
        parameters: their number.
        held: bytes.
        dtype: of most of them.
        unpacked: whether its file holds them in fewer bytes.
    """

    parameters: int
    held: int
    dtype: str = "bfloat16"
    unpacked: bool = False

    @property
    def line(self) -> str:
        """The weights in words."""
        how = ", dequantised when they are loaded" if self.unpacked else ""
        return (
            f"weights: {self.parameters / 1e6:.4g} M parameters, {self.held / 2**30:.2f} GiB as "
            f"{self.dtype}{how}"
        )

    @property
    def torch_dtype(self) -> torch.dtype:
        import torch

        found: torch.dtype = getattr(torch, self.dtype)
        return found


def lineage(source: str) -> Iterator[str]:
    """``source`` and, if it is an adapter's folder, its base models down to full weights."""
    from interp.model import adapter_base

    seen: set[str] = set()
    while source not in seen:
        yield source
        seen.add(source)
        if (Path(source) / "adapter_config.json").is_file():
            source = adapter_base(Path(source))


def weights_of(source: str, options: Mapping[str, Any] | None = None) -> Weights | None:
    """The weights of a folder, an adapter's base, a GGUF file or a model of the hub.

    Only headers are read. None if they cannot be found.
    """
    base = [*lineage(source)][-1]
    revision = (options or {}).get("revision") if base == source else None
    if Path(base).is_file():
        return _dequantised(Path(base))
    if Path(base).is_dir():
        return _local(Path(base)) or _of_pickles(Path(base))
    return _of_hub(base, revision)


def _local(folder: Path) -> Weights | None:
    """The weights that transformers reads; None where they are incomplete, as loading says."""
    from huggingface_hub import get_local_safetensors_metadata

    try:
        return _of_headers(get_local_safetensors_metadata(folder).files_metadata.values())
    except Exception:  # no such files, or any of several errors of damaged ones
        return None


def _of_headers(files: Iterable[Any]) -> Weights | None:
    parameters = held = 0
    dtypes: Counter[str] = Counter()
    for file in files:
        for tensor in file.tensors.values():
            parameters += tensor.parameter_count
            held += tensor.data_offsets[1] - tensor.data_offsets[0]
            dtypes[tensor.dtype] += tensor.parameter_count
    if not parameters:
        return None
    return Weights(parameters, held, DTYPES.get(dtypes.most_common(1)[0][0], "bfloat16"))


def _of_pickles(folder: Path) -> Weights | None:
    held = sum(path.stat().st_size for path in folder.glob("*.bin"))
    return Weights(held // 4, held, "float32") if held else None


def _of_hub(name: str, revision: str | None) -> Weights | None:
    from huggingface_hub import get_safetensors_metadata, snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
        if found := _local(folder):
            return found
    except Exception:  # not in the cache: any of several libraries' errors
        pass
    try:
        metadata = get_safetensors_metadata(name, revision=revision)
    except Exception:  # no safetensors, no network, no access: loading says which
        return None
    return _of_headers(metadata.files_metadata.values())


def _dequantised(file: Path) -> Weights:
    """A GGUF file's weights as float32: by its table of tensors, or some seven times its size."""
    try:
        from gguf import GGUFReader

        parameters = sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors)
    except Exception:  # the package is missing, or the file is cut off
        parameters = file.stat().st_size * 7 // 4
    return Weights(parameters, 4 * parameters, "float32", unpacked=True)
