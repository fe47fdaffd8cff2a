"""One process at a time: a lock on a folder, which names its holder to others.

The operating system holds the lock for the process, so the lock of a killed process is free.
"""

from __future__ import annotations

import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.errors import InputError
from interp.store import read_json, write_json


@contextmanager
def locked(path: str | Path, what: str | Path) -> Iterator[None]:
    """Hold the lock file ``path`` for a while; others are told who holds it.

    Args:
        path: the lock file; it stays, because deleting it would let two processes hold it.
        what: what the lock protects, for the message.

    Raises:
        InputError: another process holds it, or its folder cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(str(path), timeout=0)
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(f"{what} is in use by {_holder(path)}; wait for it to end") from None
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{what} cannot be written ({error.strerror})") from error
    note = _note_of(path)
    try:
        write_json(
            note,
            {
                "process": os.getpid(),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                "command": shlex.join(sys.argv),
            },
        )
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _note_of(lock: str | Path) -> Path:
    return Path(lock).with_suffix(".json")


def _holder(lock: str | Path) -> str:
    try:
        held = read_json(_note_of(lock))
        return f"process {held['process']} on {held['host']} since {held['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
