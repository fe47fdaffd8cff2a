"""Files are absent or whole; JSON is JSON; keys change with what they are made of."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.paths import local_path, require_file, require_folder
from interp import store
from interp.errors import FileError, InputError
from interp.store import (
    atomic_write,
    content_key,
    file_hash,
    is_out_of_room,
    read_json,
    read_table,
    sync_folder,
    write_json,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    rate: float
    names: frozenset[str]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("whole", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("torn", encoding="utf-8")
        raise KeyboardInterrupt
    assert path.read_text(encoding="utf-8") == "whole"
    assert os.listdir(tmp_path) == ["result.txt"]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "result.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text(encoding="utf-8") == "half"


@given(value=JSON)
def test_json_comes_back_as_it_went(
    value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value


def test_json_takes_what_results_are_made_of(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(
        path,
        {
            "settings": Settings(0.5, frozenset({"b", "a"})),
            "path": Path("runs") / "first",
            "numpy": [np.float64(0.25), np.int64(3), np.arange(2)],
            "text": "日本",
        },
    )
    assert read_json(path) == {
        "settings": {"rate": 0.5, "names": ["a", "b"]},
        "path": "runs/first",
        "numpy": [0.25, 3, [0, 1]],
        "text": "日本",
    }
    assert "日本" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float64("nan"), [np.nan]])
def test_what_is_no_number_is_no_json(value: object, tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"value": value})
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        write_json(path, object())
    assert read_json(path) == 1


def test_a_key_changes_with_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        (),
        ("a",),
        ("a", "b"),
        ("ab",),
        (["a", "b"],),
        (1,),
        ("1",),
        (None,),
        (Settings(0.5, frozenset("ab")),),
        (Settings(0.6, frozenset("ab")),),
        (np.arange(3),),
        (np.arange(4),),
    ]
    keys = [content_key("answers", *one) for one in parts]
    assert len(set(keys)) == len(parts)
    assert keys == [content_key("answers", *one) for one in parts]
    monkeypatch.setitem(store.SCHEMAS, "answers", 2)
    assert not set(keys) & {content_key("answers", *one) for one in parts}


def test_a_key_does_not_know_the_order_of_names() -> None:
    assert content_key("answers", {"a": 1, "b": 2}) == content_key("answers", {"b": 2, "a": 1})
    assert content_key("answers", {"x", "y"}) == content_key("answers", {"y", "x"})


def test_file_hash_is_of_the_bytes(tmp_path: Path) -> None:
    for name, data in (("a", b"same"), ("b", b"same"), ("c", b"other")):
        (tmp_path / name).write_bytes(data)
    a, b, c = (file_hash(tmp_path / name) for name in "abc")
    assert a == b != c


def test_a_torn_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text('{"a": ', encoding="utf-8")
    with pytest.raises(FileError, match="torn.json is not whole JSON"):
        read_json(tmp_path / "torn.json")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    with pytest.raises(FileError, match="torn.parquet is not whole parquet"):
        read_table(tmp_path / "torn.parquet")
    for read in (read_json, read_table):
        with pytest.raises(FileError, match="absent is missing; restore"):
            read(tmp_path / "absent")
    assert issubclass(FileError, OSError) and issubclass(FileError, ValueError)


def test_a_synced_folder_has_every_file_and_every_name_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("bytes", encoding="utf-8")
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(os.fstat(handle).st_ino))
    sync_folder(tmp_path)
    everything = (tmp_path, tmp_path / "inner", tmp_path / "inner" / "file")
    assert sorted(synced) == sorted(path.stat().st_ino for path in everything)


def test_no_room_is_recognised_however_a_library_reports_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    resource = pytest.importorskip("resource")
    zeros = torch.zeros(100_000)
    writers = {
        "plain": lambda path: path.write_bytes(b"0" * 400_000),
        "torch": lambda path: torch.save(zeros, path),
        "safetensors": lambda path: save_file({"zeros": zeros}, path),
    }
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for name, write in writers.items():
        # A limit on one file's size fails where a full disk would, and needs no disk to fill.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(Exception) as caught:
                write(tmp_path / name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert is_out_of_room(caught.value), name


def test_room_is_not_blamed_for_other_errors() -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    outer = RuntimeError("saving failed")
    outer.__cause__ = full
    assert is_out_of_room(outer)
    for error in (None, ValueError("a bug"), FileNotFoundError(errno.ENOENT, "no such file")):
        assert not is_out_of_room(error)


@pytest.mark.parametrize("made", [str, Path])
def test_only_paths_of_this_machine_are_written_to(made: Callable[[str], str | Path]) -> None:
    for plain in ("runs/a", "/tmp/a b", "C:/runs", "a:b", "s3", "./s3:x"):
        assert local_path(made(plain)) == Path(plain)
    for address in ("file:///tmp/a%20b", "FILE:/tmp/a b", "file:////tmp/a b"):
        assert local_path(made(address)) == Path("/tmp/a b")
    for address in ("s3://bucket/x", "gs://b", "memory://x", "hf://datasets/a/b", "s3+x://b/c"):
        for use in (require_folder, require_file):
            with pytest.raises(InputError, match=f"{re.escape(address)} is not on a file system"):
                use(made(address))
