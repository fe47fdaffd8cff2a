"""Read rows of a user's JSONL, JSON, CSV or parquet file, each with its place in the file.

The module also writes rows as JSONL, atomically.

The standard library reads the file where possible. So a truncated line, an invalid byte or a
missing column is reported with its line number before any heavy import.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.errors import InputError, brief
from interp.store import atomic_write
from unlearning.data.conversations import with_turns

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
LONGEST_FIELD = 2**31 - 1  # characters of a CSV field; Python's own limit is 131,072
MOST_NAMED = 20
UTF8, WINDOWS = "utf-8-sig", "cp1252"  # the usual encodings of user files


@dataclass(frozen=True)
class Record:
    """One row of a file or table.

    Attributes:
        place: such as ``"line 3"``.
        given: its fields as they were given.
    """

    place: str
    given: dict[str, Any]

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields, ``None`` where they are empty: null, NaN and blank text are the same."""
        return {name: None if is_empty(value) else value for name, value in self.given.items()}


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: null, NaN (as pandas writes it), or blank text."""
    if value is None or isinstance(value, str):
        return not (value or "").strip()
    if is_nested(value):
        return False
    try:
        return bool(value != value)  # NaN and pandas's missing time alone differ from themselves
    except TypeError:  # pandas's missing value, whose comparisons are neither true nor false
        return True


def is_nested(value: Any) -> bool:
    """Whether a cell holds more than one value: a list, an object or an array."""
    return isinstance(value, (list, tuple, dict, set)) or bool(getattr(value, "ndim", 0))


def field_of(record: Record, name: str) -> Any:
    """A field, or a field within fields: ``labels.final_label``."""
    if name in record.fields:
        return record.fields[name]
    value: Any = record.fields
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def numbered(rows: Iterable[dict[str, Any]]) -> list[Record]:
    """Rows without line numbers, each with its row number, from 1."""
    return [Record(f"row {number}", fields) for number, fields in enumerate(rows, start=1)]


def with_single_turns(records: Sequence[Record], name: str) -> list[Record]:
    """The rows, with prompt and response as text where they are conversations in chat format.

    Raises:
        InputError: a conversation has no message of the user; names the row.
    """
    return [
        Record(record.place, with_turns(record.given, f"{name}, {record.place}"))
        for record in records
    ]


def read_records(path: str | Path, *, encoding: str = UTF8) -> list[Record]:
    """Every row of a JSONL, JSON (one list), CSV or parquet file, in order; blank lines skipped.

    A row in chat format (a column ``messages``) gets the last user turn as ``prompt`` and the reply
    to it as ``response``.

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
    return with_single_turns(records, str(path))


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


def require_scalars(records: Sequence[Record], columns: Collection[str], name: str) -> None:
    """Check that ``columns`` hold text, numbers or nothing.

    Raises:
        InputError: naming the first cell with a list or an object.
    """
    for record in records:
        for column in columns:
            value = record.fields.get(column)
            if is_nested(value):
                kind = "an object" if isinstance(value, dict) else "a list"
                raise InputError(f'{name}, {record.place}: "{column}" is {kind}; expected text')


def require_characters(records: Sequence[Record], name: str) -> None:
    """Check that all text can be written and tokenized.

    Raises:
        InputError: naming the first cell with half of a surrogate pair, as is left of an emoji that
            was cut in two.
    """
    for record in records:
        for column, value in record.given.items():
            nested = json.dumps(value, ensure_ascii=False, default=str)
            try:
                f"{column}{value if isinstance(value, str) else nested}".encode()
            except UnicodeEncodeError as error:
                half = ascii(error.object[error.start])[1:-1]
                raise InputError(
                    f'{name}, {record.place}: "{ascii(column)[1:-1]}" holds half of a character '
                    f"({half}); write the whole character, or leave it out"
                ) from None


def without_half_characters(text: str) -> str:
    """The text without halves of surrogate pairs, which no model reads."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")


def require_named(columns: Collection[str], found: Iterable[Any], name: str) -> None:
    """Check that every one of ``columns`` is among those ``found``.

    Raises:
        InputError: naming the first that is not, and all that are.
    """
    found = list(found)
    shown = [brief(one) for one in found[:MOST_NAMED]] + ["…"] * (len(found) > MOST_NAMED)
    for column in columns:
        if column not in found:
            raise InputError(
                f'{name} has no column "{column}"; expected {", ".join(columns)}; '
                f"found {', '.join(shown) or 'none'}"
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
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # as PowerShell writes files
        encoding = "utf-16"
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


def _parsed(text: str, place: str) -> Any:
    """A JSON value.

    Raises:
        JSONDecodeError: it is not valid.
        InputError: it cannot be read otherwise, or an object has a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        _require_unique([key for key, _ in pairs], place)
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (json.JSONDecodeError, InputError):
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; too deep
        raise InputError(f"{place}: JSON that cannot be read ({brief(error)})") from error


def _require_unique(names: Sequence[str], place: str) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f'{place}: "{brief(twice)}" is there twice; rename one of them')


def _json_list(text: str, path: Path) -> list[Record]:
    try:
        rows = _parsed(text, str(path))
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
            fields = _parsed(line, f"{path}, line {number}")
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


def _delimiter(text: str) -> str:
    """A comma, or what spreadsheets write where a comma is the decimal sign."""
    header = text.lstrip().partition("\n")[0]
    return next((one for one in ",;\t" if one in header), ",")


def _csv(text: str, path: Path) -> Iterator[Record]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
    header: list[str] | None = None
    limit = csv.field_size_limit(LONGEST_FIELD)
    line = 1
    try:
        while True:
            line = reader.line_num + 1  # on which the row begins; text in quotes may have several
            row = next(reader, None)
            if row is None:
                return
            if not row:
                continue
            if header is None:
                header = row
                _require_unique(header, f"{path}, line {line}")
                continue
            if len(row) > len(header):
                raise InputError(
                    f"{path}, line {line}: more fields than the header has columns; "
                    "put text that holds commas in double quotes"
                )
            cells = zip(header, row, strict=False)  # a row may end early
            fields = dict.fromkeys(header) | {name: cell or None for name, cell in cells}
            yield Record(f"line {line}", fields)
    except csv.Error as error:
        reason = "a quote is not closed" if "unexpected end" in str(error) else error
        raise InputError(f"{path}, line {line}: not valid CSV ({reason})") from error
    finally:
        csv.field_size_limit(limit)


def _parquet(path: Path) -> list[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        rows = table.to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as parquet ({brief(error)})") from error
    _require_unique(table.column_names, str(path))
    return numbered(rows)
