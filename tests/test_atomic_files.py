"""Files and folders: through links, never over what is no file, readable like any other."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from interp import store
from interp.errors import InputError
from interp.store import atomic_folder, atomic_write, read_json, sync_folder, write_json


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_a_link_and_its_file_is_written(tmp_path: Path, there: bool) -> None:
    (tmp_path / "disk").mkdir()
    file, first, second = tmp_path / "disk" / "file", tmp_path / "first", tmp_path / "second"
    if there:
        file.write_text("old", encoding="utf-8")
    first.symlink_to(Path("disk") / "file")  # relative, as `ln -s` makes it
    second.symlink_to(first)
    write_json(second, {"value": 1})
    assert first.is_symlink() and second.is_symlink() and not file.is_symlink()
    assert read_json(file) == {"value": 1}
    assert sorted(os.listdir(tmp_path)) == ["disk", "first", "second"]
    assert os.listdir(tmp_path / "disk") == ["file"]


def test_what_is_no_file_is_refused_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "device").symlink_to("/dev/null")
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    for place, kind in {
        "pipe": "a pipe",
        "folder": "a folder",
        "device": "a device",
        "socket": "a socket",
        "loop": "cannot be written",
        "file/inside": "cannot be written",
        "file/deeper/inside": "cannot be written",
        "n" * 300: "cannot be written",
    }.items():
        with pytest.raises(InputError, match=kind) as caught:
            write_json(tmp_path / place, 1)
        assert "\n" not in str(caught.value) and place in str(caught.value)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before


def test_files_of_every_library_are_as_readable_as_any_other(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Reading the umask means setting it, for all threads: it must not happen.
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask is touched"))
    tensors = {"zeros": np.zeros(3)}
    with atomic_write(tmp_path / "tensors") as path:
        save_file(tensors, path)
    with atomic_folder(tmp_path / "model") as folder:
        save_file(tensors, folder / "model.safetensors")
        (folder / "inner").mkdir()
        save_file(tensors, folder / "inner" / "model.safetensors")
        write_json(folder / "config.json", {})
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert {mode_of(path) for path in files} == {0o666 & ~umask}


def test_a_file_keeps_the_permissions_that_its_owner_gave_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for mode in (0o600, 0o640, 0o444):
        path.write_text("", encoding="utf-8") if mode == 0o600 else None
        path.chmod(mode)
        write_json(path, mode)
        assert (read_json(path), mode_of(path)) == (mode, mode)


def test_a_folder_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*names: str) -> None:
        with atomic_folder(tmp_path / "model") as folder:
            for name in names:
                (folder / name).write_text(name, encoding="utf-8")
            if "torn" in names:
                raise KeyboardInterrupt

    write("a", "b")
    with pytest.raises(KeyboardInterrupt):
        write("torn")
    assert sorted(os.listdir(tmp_path / "model")) == ["a", "b"]
    write("c")
    assert os.listdir(tmp_path / "model") == ["c"]  # nothing of the earlier model is left in it
    replace = os.replace

    def fails(source: Path, target: Path) -> None:
        if Path(target).name == "model" and not str(source).endswith(".old"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="No space"):
        write("d")
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["c"]
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"), atomic_folder(tmp_path / "file"):
        pass


def windows(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The two things that Windows refuses: opening a folder, and flushing a file read-only."""
    import fcntl

    real_open, real_sync = os.open, os.fsync
    synced = []

    def opened(path: str, flags: int, *more: int) -> int:
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return real_open(path, flags, *more)

    def sync(handle: int) -> None:
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real_sync(handle)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", sync)
    return synced


def test_files_reach_the_disk_where_only_writable_handles_can_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = windows(monkeypatch)
    write_json(tmp_path / "value.json", 1)
    assert len(synced) == 1 and read_json(tmp_path / "value.json") == 1
    synced.clear()
    (tmp_path / "file").touch()
    sync_folder(tmp_path)
    assert sorted(map(os.path.basename, synced)) == ["file", "value.json"]


def test_a_failing_disk_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "value.json", 1)
    for code in (errno.EIO, errno.ENOSPC, errno.EDQUOT):

        def sync(_: int, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", sync)
        with pytest.raises(OSError) as caught:
            write_json(tmp_path / "value.json", 2)
        assert caught.value.errno == code
        assert store.is_out_of_room(caught.value) == (code != errno.EIO)
    assert read_json(tmp_path / "value.json") == 1 and os.listdir(tmp_path) == ["value.json"]


@pytest.mark.parametrize("refusals", [2, 99])
def test_a_file_in_use_is_replaced_when_it_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusals: int
) -> None:
    write_json(tmp_path / "value.json", 1)
    left, replace = [refusals], os.replace

    def busy(source: Path, target: Path) -> None:
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    monkeypatch.setattr(store.time, "sleep", lambda _: None)
    if refusals == 2:
        write_json(tmp_path / "value.json", 2)
    else:
        with pytest.raises(InputError, match="value.json cannot be written"):
            write_json(tmp_path / "value.json", 2)
    assert read_json(tmp_path / "value.json") == (2 if refusals == 2 else 1)
    assert os.listdir(tmp_path) == ["value.json"]
