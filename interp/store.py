"""Atomic writes and content keys for all caches and results.

A file is either absent or complete. A key is a hash of everything that a result depends on,
including its stage's number in :data:`SCHEMAS`, so a stage can be skipped if its inputs have not
changed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import FileError, InputError, brief

if TYPE_CHECKING:
    import pandas as pd

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# torch.save does not report the cause; its archive writer reports only an unexpected position.
WRITE_FAILED = (
    *map(os.strerror, NO_ROOM),
    ". unexpected pos ",
    "PytorchStreamWriter failed writing",
)

#: What a path may name that no result may replace.
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
)
NOT_WRITABLE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR,
    errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
)  # fmt: skip
WAITS = (0.05, 0.1, 0.2, 0.4)  # seconds between attempts to move a file that is in use

#: The schema number of every stage whose results are kept. Raise a stage's number when the same
#: inputs give other results than before; only that stage's results, and those made from them, are
#: then computed again. A new version of the package alone changes no number.
SCHEMAS = {
    "answers": 1,  # generated answers, also those of a server
    "base": 1,  # an arm's folder of the base model: prefixes, scores, coherence
    "states": 1,  # stored activations
    "references": 1,  # reference log-probs of training
    "training": 1,  # an arm's folder: training, scores along it, answers, directions
    "readout": 1,  # refusal prefixes and what is read with them
    "rescaling": 1,  # scores along the scaled weight change
    "tasks": 1,  # scores on tasks
    "causes": 2,  # explanations of lost refusals
    "predictions": 2,  # predictors of leakage, with their kernels
    "gate": 3,  # what was read under the direction gate's edits, and the gate
    "identity": 1,  # names of contents that no result is looked up by
}


def user_cache(name: str) -> Path:
    """The folder ``name`` in ``$SPILLOVER_CACHE``, or in ``spillover`` in the user's caches."""
    given = os.environ.get("SPILLOVER_CACHE")
    if given:
        return Path(given) / name
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "spillover" / name


def package_version() -> str:
    """The installed version of Spillover; ``"unknown"`` if it runs from a bare checkout."""
    try:
        return version("spillover")
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; move it into place only if the block succeeds.

    A symbolic link stays a link: the file that it names is written. The file keeps the permissions
    that it had; a new file gets those of any new file (0666 without the umask's bits), also where a
    library replaces the temporary file by a private one, as safetensors does.

    Raises:
        InputError: ``path`` is a folder, a device, a pipe or a socket, its folder cannot be
            written, or (on Windows) another program has the file open.
    """
    target, kept = file_target(path)
    with _in_one_line(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        # The same folder is on the same file system, where os.replace is atomic.
        temporary = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}")
        # The system applies the umask here: asking for the umask would change it for all threads.
        handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        mode = os.fstat(handle).st_mode
        os.close(handle)
    try:
        yield temporary
        sync_path(temporary)
        _set_mode(temporary, mode if kept is None else kept)
        with _in_one_line(path):
            _move(temporary, target)
    finally:
        with suppress(OSError):  # Windows deletes no open file; the error that left it so is raised
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder next to ``path``; it takes the place of ``path`` if all succeeds.

    For what ``save_pretrained`` writes: a folder is whole or absent, and its files are as readable
    as any new file.

    Raises:
        InputError: ``path`` is a file, or its folder cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise InputError(f"{path} is a file, not a folder; give another path")
    made = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}")
    old = made.with_name(f"{made.name}.old")
    with _in_one_line(path):
        made.mkdir(parents=True)
    try:
        yield made
        share_folder(made)
        sync_folder(made)
        with _in_one_line(path):
            if target.exists():
                _move(target, old)
            _move(made, target)
    finally:
        if old.exists() and not target.exists():
            os.replace(old, target)
        for rest in (made, old):
            shutil.rmtree(rest, ignore_errors=True)


def file_target(path: str | Path) -> tuple[Path, int | None]:
    """The file that ``path`` names, links followed, and its mode; None where it is new.

    Raises:
        InputError: it is a folder, a device, a pipe or a socket, or part of it is a file.
    """
    mode = None
    with _in_one_line(path), suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
    if mode is not None and not stat.S_ISREG(mode):
        kind = next((word for has, word in KINDS if has(mode)), "not a regular file")
        raise InputError(f"{path} is {kind}; give the path of a file")
    return Path(os.path.realpath(path)), mode


def share_folder(folder: str | Path) -> None:
    """Give the files under ``folder`` the permissions of any new file.

    Libraries write safetensors as private files (0600), which a group on a cluster cannot read.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".mode.") as probed:
        probe = Path(probed) / "probe"
        probe.touch()
        mode = probe.stat().st_mode
    for file in Path(folder).rglob("*"):
        if file.is_file() and not file.is_symlink():
            _set_mode(file, mode)


def _set_mode(path: Path, mode: int) -> None:
    # Some mounts have one mode for all files and refuse even to set it.
    if path.stat().st_mode != mode:
        with suppress(PermissionError):
            path.chmod(stat.S_IMODE(mode))


@contextmanager
def _in_one_line(path: str | Path) -> Iterator[None]:
    """Errors of the user's path as one line; a full disk and other failures pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_WRITABLE:
            raise
        raise InputError(
            f"{path} cannot be written ({error.strerror}); give another path"
        ) from error


def _move(source: Path, target: Path) -> None:
    """``os.replace``; Windows refuses it while a reader, often a virus scanner, has the file."""
    for seconds in WAITS:
        try:
            return os.replace(source, target)
        except PermissionError:
            time.sleep(seconds)
    os.replace(source, target)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically. NaN is not valid JSON: use ``None``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=_plain)
    write_text(path, text + "\n")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text with plain line ends, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a DataFrame as CSV without its index, atomically."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8")


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a DataFrame as parquet without its index, atomically."""
    with atomic_write(path) as temporary:
        table.to_parquet(temporary, index=False)


def without_nan(value: Any) -> Any:
    """``value`` with ``None`` for every non-finite float in it, for JSON."""
    if isinstance(value, Mapping):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(path: str | Path, keys: Sequence[str] | None = None) -> Any:
    """The value in a JSON file; with ``keys``, an object that has them.

    Raises:
        FileError: the file is missing, incomplete or of another version.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, "JSON", error) from error
    if keys is not None:
        if not isinstance(found, dict):
            raise FileError(f"{path} holds no JSON object; {REMAKE}")
        _require(keys, found, path)
    return found


def read_table(path: str | Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """The table in a parquet file, which has at least ``columns``.

    Raises:
        FileError: the file is missing, incomplete or of another version.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except Exception as error:  # whatever pyarrow and pandas raise for damaged files
        raise _unreadable(path, "parquet", error) from error
    _require(columns, table.columns, path)
    return table


REMAKE = "restore the file, or delete it and give the command of the run again"


def _require(names: Sequence[str], found: Collection[str], path: str | Path) -> None:
    if lacking := [name for name in names if name not in found]:
        raise FileError(
            f"{path} has no {', '.join(lacking)}, so it is damaged or of another version; {REMAKE}"
        )


def _unreadable(path: str | Path, kind: str, error: BaseException) -> FileError:
    if isinstance(error, FileNotFoundError):
        return FileError(f"{path} is missing; {REMAKE}")
    return FileError(f"{path} is not whole {kind} ({brief(error)}); {REMAKE}")


def content_key(stages: str | Sequence[str], *parts: Any) -> str:
    """A hexadecimal key of ``parts`` (anything JSON can hold), made by one or more stages.

    Raises:
        KeyError: a stage is not in :data:`SCHEMAS`.
    """
    numbers = {one: SCHEMAS[one] for one in ([stages] if isinstance(stages, str) else stages)}
    raised = {stage: number for stage, number in numbers.items() if number > 1}
    # The first numbers give the keys of version 0.1, so its results are found.
    text = json.dumps([raised or "0.1.0", *parts], sort_keys=True, default=_plain)
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
    """Wait until a file's bytes or a folder's list of names are on the disk.

    Windows flushes only files that are open for writing, and no folders; some network file systems
    flush no folders either. A file is flushed wherever the system can.
    """
    is_folder = os.path.isdir(path)
    try:
        handle = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except PermissionError:
        if is_folder:
            return
        handle = os.open(path, os.O_RDONLY)  # a file that its owner made read-only
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise
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
