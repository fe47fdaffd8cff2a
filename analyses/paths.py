"""Where a command may write: paths of this machine, to a folder or to a file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote

from interp.errors import InputError
from interp.store import file_target


def local_path(path: str | Path) -> Path:
    """``path`` on a file system of this machine; ``file:///a/b`` is ``/a/b``.

    Raises:
        InputError: it is the address of something else, such as ``s3://bucket/folder``.
    """
    text = str(path)
    # ``Path`` leaves one slash; a single letter is a drive.
    scheme, slash, rest = text.partition(":/")
    if not slash or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        return Path(path)
    if scheme.lower() == "file":
        return Path("/" + unquote(rest).lstrip("/"))
    address = f"{scheme}://{rest.lstrip('/')}"
    raise InputError(
        f"{address} is not on a file system of this machine, and results are written, locked and "
        "replaced there; mount it and give the folder, or copy the finished folder to it"
    )


def require_folder(path: str | Path) -> Path:
    """``path``, which is a folder of this machine that can be written, or nothing yet.

    Raises:
        InputError: it is a file, or part of it is, or it is elsewhere (:func:`local_path`), or the
            user may not write there.
    """
    path = local_path(path)
    first = next((one for one in (path, *path.parents) if os.path.lexists(one)), path)
    if os.path.lexists(first) and not first.is_dir():
        raise InputError(f"{first} is a file; expected a folder, or a new name")
    if first.is_dir() and not os.access(first, os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be written: {first} is read-only for this user; give another path"
        )
    return path


def require_file(path: str | Path) -> Path:
    """``path``, to which a file can be written.

    Raises:
        InputError: it is a folder, a device, a pipe or a socket, or part of it is a file, or it is
            elsewhere (:func:`local_path`), or the user may not write there.
    """
    path = local_path(path)
    if not path.is_symlink():
        require_folder(path.parent)
    require_folder(file_target(path)[0].parent)
    return path
