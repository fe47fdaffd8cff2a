"""Rows of a data set as they are: fetched from the hub, or read from a file of any origin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp.errors import InputError
from unlearning.data.records import SUFFIXES, UTF8, WINDOWS, Record, read_records
from unlearning.data.sources.schema import Source

# By datasets' names for formats; all others are JSON to it.
BUILDERS = {".csv": "csv", ".parquet": "parquet"}


def fetch(source: Source) -> list[dict[str, Any]]:
    """A data set's rows from the hub or from its address, cached as ``datasets`` caches.

    Raises:
        InputError: it cannot be fetched; says what to do.
    """
    import datasets

    try:
        if "://" in source.location:
            suffix = Path(source.location).suffix.lower()
            if suffix not in SUFFIXES:
                raise ValueError(f"expected an address that ends in {' or '.join(SUFFIXES)}")
            builder = BUILDERS.get(suffix, "json")
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
    if path.is_file() and path.suffix.lower() != ".parquet":
        data = path.read_bytes()
        try:
            data.decode(UTF8)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            note = f"{path} is not UTF-8 (line {line}); it was read as Windows-1252"
            return read_records(path, encoding=WINDOWS), (note,)
    return read_records(path), ()
