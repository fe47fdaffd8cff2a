"""Read rows of a user's JSONL, JSON, CSV or parquet file, each with its place in the file.

The module also writes rows as JSONL, atomically.

The standard library reads the file where possible. So a truncated line, an invalid byte or a
missing column is reported with its line number before any heavy import.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import InputError
from interp.store import atomic_write

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
UTF8, WINDOWS = "utf-8-sig", "cp1252"  # the usual encodings of user files


@dataclass(frozen=True)
class Record:
    """One row: its fields (``None`` where empty) and its place, such as ``"line 3"``."""

    place: str
    fields: dict[str, Any]


def numbered(rows: Iterable[dict[str, Any]]) -> list[Record]:
    """Rows without line numbers, each with its row number, from 1."""
    return [Record(f"row {number}", fields) for number, fields in enumerate(rows, start=1)]


def read_records(path: str | Path, *, encoding: str = UTF8) -> list[Record]:
    """Every row of a JSONL, JSON (one list), CSV or parquet file, in order; blank lines skipped.

    Raises:
        InputError: the file is missing, empty, truncated, or in another format or encoding.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {what}; give a file ending in {' or '.join(SUFFIXES)}")
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} is of an unknown format; expected {' or '.join(SUFFIXES)}")
    if suffix == ".parquet":
        records = _parquet(path)
    else:
        formats: Mapping[str, Callable[[str, Path], Iterable[Record]]]
        formats = {".csv": _csv, ".json": _json_list}
        parse = formats.get(suffix, _json_lines)
        records = list(parse(_decoded(path, encoding), path))
    if not records:
        raise InputError(f"{path} is empty; expected at least one row")
    return records


def require_columns(records: Sequence[Record], columns: Collection[str], name: str) -> None:
    """Check that every row has a value in every one of ``columns``.

    Raises:
        InputError: naming the column that no row has, or the first row without a value.
    """
    require_named(columns, dict.fromkeys(key for record in records for key in record.fields), name)
    for column in columns:
        for record in records:
            if record.fields.get(column) is None:
                raise InputError(f'{name}, {record.place}: "{column}" is missing')


def require_named(columns: Collection[str], found: Iterable[Any], name: str) -> None:
    """Check that every one of ``columns`` is among those ``found``.

    Raises:
        InputError: naming the first that is not, and all that are.
    """
    found = list(found)
    for column in columns:
        if column not in found:
            raise InputError(
                f'{name} has no column "{column}"; expected {", ".join(columns)}, '
                f"found {', '.join(map(str, found)) or 'none'}"
            )


def write_records(rows: Iterable[Mapping[Any, Any]], path: str | Path) -> None:
    """Write JSONL atomically; escape what UTF-8 cannot encode (half a surrogate pair)."""
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, default=str)
            whole = line.encode("utf-8", "replace").decode("utf-8") == line
            file.write((line if whole else json.dumps(row, default=str)) + "\n")


def _decoded(path: Path, encoding: str) -> str:
    data = path.read_bytes()
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"{path}, line {line}: byte 0x{data[error.start]:02x}"
        if encoding != UTF8:
            raise InputError(f"{byte} is neither UTF-8 nor Windows-1252; save as UTF-8") from error
        raise InputError(
            f"{byte} is not UTF-8; save the file as UTF-8 (it may be Windows-1252)"
        ) from error


def _json_list(text: str, path: Path) -> list[Record]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is not a list of objects; give [{{...}}, ...] or a JSONL file")
    return numbered(rows)


def _json_lines(text: str, path: Path) -> Iterator[Record]:
    # Not splitlines(): a JSON string may contain U+2028 and similar characters unescaped.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}); "
                "the line may be torn: expected one whole object per line"
            ) from error
        if not isinstance(fields, dict):
            raise InputError(
                f"{path}, line {number}: expected an object such as "
                f'{{"prompt": "..."}}, found {type(fields).__name__}'
            )
        yield Record(f"line {number}", fields)


def _csv(text: str, path: Path) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for fields in reader:
            place = f"line {reader.line_num}"
            if None in fields:
                raise InputError(
                    f"{path}, {place}: more fields than the header has columns; "
                    "put text that holds commas in double quotes"
                )
            yield Record(place, {key: value or None for key, value in fields.items()})
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from error


def _parquet(path: Path) -> list[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as parquet ({reason})") from error
    return numbered(rows)
