"""Atomic writes and content keys for all caches and results.

A file is either absent or complete. A key is a hash of everything that a result depends on,
including :data:`SCHEMA`, so a stage can be skipped if its inputs have not changed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch.save does not report the cause; its archive writer reports only an unexpected position.
WRITE_FAILED = (
    *map(os.strerror, NO_ROOM),
    ". unexpected pos ",
    "PytorchStreamWriter failed writing",
)


#: Increase this if the same inputs give different results than before; all results are then
#: computed again. A new package version alone does not change it.
SCHEMA = "0.1.0"


def package_version() -> str:
    """The installed version of Spillover; ``"unknown"`` if it runs from a bare checkout."""
    try:
        return version("spillover")
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; move it into place only if the block succeeds."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The same folder is on the same file system, where os.replace is atomic.
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    temporary.chmod(0o666 & ~_umask())  # mkstemp makes files private
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN is not valid JSON: use ``None``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a DataFrame as CSV without its index, atomically."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8")


def without_nan(value: Any) -> Any:
    """``value`` with ``None`` for every non-finite float in it, for JSON."""
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def content_key(*parts: Any) -> str:
    """A hexadecimal key of ``parts`` (anything JSON can hold) and of :data:`SCHEMA`."""
    text = json.dumps([SCHEMA, *parts], sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: str | Path) -> None:
    """Wait until all files and names under ``folder`` are on the disk and not only in a cache.

    Otherwise a crash may keep a file that was written last and lose a file written before it.
    """
    root = Path(folder)
    for path in (*root.rglob("*"), root):
        sync_path(path)


def sync_path(path: str | Path) -> None:
    """Wait until a file's bytes or a folder's list of names are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_out_of_room(error: BaseException | None) -> bool:
    """Whether a full disk, a quota or a size limit caused ``error``, as libraries report it."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in NO_ROOM
        if full or any(sign in str(error) for sign in WRITE_FAILED):
            return True
        error = error.__cause__ or error.__context__
    return False


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
