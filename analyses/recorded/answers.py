"""Files of recorded answers: what must be in them and how fields are found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearning.data import Record, require_columns


def require_answers(records: Sequence[Record], also: Sequence[str], path: str | Path) -> None:
    """Check that every row has ``response`` and the columns ``also``.

    A response must be there, but may be empty (null in some formats): that is a class.

    Raises:
        InputError: naming the column and the first row without it.
    """
    require_columns(records, also, str(path))
    for record in records:
        if "response" not in record.fields:
            require_columns([record], ("response",), f"{path}, {record.place}")


def field_of(record: Record, name: str) -> Any:
    """A field, or a field within fields: ``labels.final_label``."""
    if name in record.fields:
        return record.fields[name]
    value: Any = record.fields
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def texts(records: Sequence[Record], column: str) -> list[str]:
    """A column as text; what is missing is empty."""
    return [
        "" if record.fields[column] is None else str(record.fields[column]) for record in records
    ]
