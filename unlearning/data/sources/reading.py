"""Rows of a data set as they are: fetched from the hub, or read from a file of any origin."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from interp.errors import InputError
from unlearning.data.records import Record, read_records
from unlearning.data.sources.schema import Source

BUILDERS = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".parquet": "parquet",
}
FALLBACK = "cp1252"  # Windows-1252: what files that people saved are in where not in UTF-8


def fetch(source: Source) -> list[dict[str, Any]]:
    """A data set's rows from the hub or from its address, cached as ``datasets`` caches.

    Raises:
        InputError: it cannot be fetched; says what to do.
    """
    import datasets

    try:
        if "://" in source.location:
            builder = BUILDERS.get(Path(source.location).suffix.lower())
            if builder is None:
                raise ValueError(f"expected an address that ends in {' or '.join(BUILDERS)}")
            table = datasets.load_dataset(builder, data_files=source.location, split="train")
        else:
            table = datasets.load_dataset(
                source.location,
                source.config,
                data_files=source.data_file,
                split=source.split,
                revision=source.revision,
            )
    # RuntimeError: a data set that is a script, which the library no longer runs.
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        advice = f"download it from {source.location} and give the file"
        if "://" not in source.location:
            page = f"https://huggingface.co/datasets/{source.location}"
            advice = (
                f"download it from {page} and give the file, or, where it is gated, accept its "
                "terms there and set HF_TOKEN"
            )
        raise InputError(f"{source.location} cannot be fetched ({reason}); {advice}") from error
    return [dict(row) for row in table]


def read_rows(path: str | Path) -> tuple[list[Record], tuple[str, ...]]:
    """Rows of a CSV, JSONL, JSON (one list) or parquet file, and what was done to read it.

    A file that is not UTF-8 is read as Windows-1252, which a note says.

    Raises:
        InputError: the file is missing, of another format, empty, torn or in neither encoding.
    """
    path = Path(path)
    if not path.is_file() or path.suffix.lower() == ".parquet":
        return read_records(path), ()
    content, notes = _decoded(path)
    if path.suffix.lower() == ".json":
        return _json_list(content, path), notes
    if not notes:
        return read_records(path), ()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_text(content, encoding="utf-8", newline="")
        try:
            return read_records(copy), notes
        except InputError as error:
            raise InputError(str(error).replace(str(copy), str(path))) from error


def _decoded(path: Path) -> tuple[str, tuple[str, ...]]:
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        note = f"{path} is not UTF-8 (line {line}); it was read as Windows-1252"
    try:
        return data.decode(FALLBACK), (note,)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is neither UTF-8 nor Windows-1252 (byte 0x{data[error.start]:02x} at "
            f"{error.start}); save it as UTF-8"
        ) from error


def _json_list(content: str, path: Path) -> list[Record]:
    try:
        rows = json.loads(content)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is no list of objects; expected [{{...}}, ...], or a JSONL file")
    if not rows:
        raise InputError(f"{path} is empty; expected at least one row")
    return [Record(f"row {number}", row) for number, row in enumerate(rows, start=1)]
