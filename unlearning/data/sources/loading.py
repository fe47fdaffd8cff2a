"""Load a data set from the hub or a file as prompts, and count the rows left out.

The module also returns the unchanged rows of a data set: :func:`fetch` and :func:`read_rows`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, first_line
from unlearning.data.prompts import GENERAL, matched_pairs
from unlearning.data.records import (
    SUFFIXES,
    UTF8,
    WINDOWS,
    Record,
    numbered,
    read_records,
    require_named,
)
from unlearning.data.sources.definitions import BUILT_IN, SOURCES, find_source
from unlearning.data.sources.schema import Above, Source, Values, category_key, is_file, text_of
from unlearning.data.splits import text_hash

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("id", "prompt", "domain", "label", "kind", "source", "category", "pair")


@dataclass(frozen=True)
class Loaded:
    """The prompts of a data set, and the rows that were left out.

    Attributes:
        prompts: columns ``id, prompt, domain, label, kind, source, category`` (the data set's
            own) and, where it has pairs, ``pair``.
        left_out: number of rows left out for each reason; columns ``source, reason, rows``.
        notes: changes that were necessary to read a file.
    """

    prompts: pd.DataFrame
    left_out: pd.DataFrame
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{len(self.prompts)} prompts"]
        lines += [
            f"{row.rows} rows of {row.source} left out: {row.reason}"
            for row in self.left_out.itertuples()
        ]
        return "\n".join((*lines, *self.notes))


def load(source: Source | str, path: str | Path | None = None) -> Loaded:
    """A data set's prompts, from its location or from a file of the same columns.

    Raises:
        InputError: it cannot be fetched or read, a column is missing, a category is not known,
            or no row is left; names the file, what was expected and what was found.
    """
    if isinstance(source, str):
        source = find_source(source)
    if path is None and is_file(source.location):
        path = source.location
    if path is None:
        where = source.location
        notes: tuple[str, ...] = ()
        rows = numbered(fetch(source))
    else:
        where = str(path)
        rows, notes = read_rows(path)
    found = dict.fromkeys(column for row in rows for column in row.fields)
    require_named(source.required, found, where)
    why_not = [_reason(source, row.fields) for row in rows]
    skipped = Counter(reason for reason in why_not if reason)
    used = [row for row, reason in zip(rows, why_not, strict=True) if not reason]
    _require_known(source, used, where)
    prompts = list(_prompts(source, used, skipped, where))
    if not prompts:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in skipped.items())
        raise InputError(f"{where} has no rows for {source.name} ({reasons})")
    return _loaded(source, prompts, skipped, notes)


def load_named(asked: str, known: Mapping[str, Source] = SOURCES) -> Loaded:
    """Load the data set that ``NAME``, ``NAME=FILE`` or ``built-in`` names.

    Raises:
        InputError: there is no data set of that name, or it cannot be loaded.
    """
    import pandas as pd

    name, _, file = asked.partition("=")
    if name == BUILT_IN:
        if file:
            raise InputError(f"{asked}: {BUILT_IN} prompts come from no file; give --own {file}")
        return Loaded(matched_pairs(), pd.DataFrame(columns=["source", "reason", "rows"]))
    return load(find_source(name, known), file or None)


def combined(parts: Sequence[Loaded]) -> Loaded:
    """Several data sets' prompts as one table, in that order; nothing is removed."""
    import pandas as pd

    return Loaded(
        pd.concat([part.prompts for part in parts], ignore_index=True),
        pd.concat([part.left_out for part in parts], ignore_index=True),
        tuple(note for part in parts for note in part.notes),
    )


def _reason(source: Source, fields: Mapping[str, Any]) -> str | None:
    """Why a row is not used; None if it is."""
    for column, values in source.only.items():
        if category_key(fields.get(column)) not in map(category_key, values):
            return f'{column} is "{text_of(fields.get(column))}", not {" or ".join(values)}'
    if isinstance(source.domain, Values) and source.domain.of(fields) is None:
        key = category_key(fields.get(source.domain.column))
        for value, reason in source.left_out.items():
            if category_key(value) == key:
                return f'{source.domain.column} is "{value}": {reason}'
    return None


def _require_known(source: Source, rows: Sequence[Record], where: str) -> None:
    """Check every category before any row is used, so that one error names them all."""
    for rule in (source.domain, source.label):
        if not isinstance(rule, Values):
            continue
        unknown = Counter(
            text_of(row.fields.get(rule.column)) for row in rows if rule.of(row.fields) is None
        )
        if unknown:
            found = ", ".join(f'"{value}" ({count} rows)' for value, count in unknown.items())
            known = ", ".join(f'"{value}"' for value in rule.values)
            raise InputError(
                f"{where}: {source.name} does not know these values of the column "
                f'"{rule.column}": {found}; known are {known}; map them, or leave them out ("" is '
                "an empty cell)"
            )


def _prompts(
    source: Source, rows: Sequence[Record], skipped: Counter[str], where: str
) -> Iterator[dict[str, Any]]:
    taken: Counter[str] = Counter()
    for row in rows:
        fields = row.fields
        prompt = "\n\n".join(part for c in source.prompt if (part := text_of(fields.get(c))))
        if not prompt:
            skipped["the prompt is empty"] += 1
            continue
        domain = source.domain if isinstance(source.domain, str) else source.domain.of(fields)
        label = source.label if isinstance(source.label, str) else source.label.of(fields)
        if label is None and isinstance(source.label, Above):
            columns = ", ".join(source.label.columns)
            raise InputError(f"{where}, {row.place}: expected numbers in {columns}")
        if domain == GENERAL and label == "harmful":
            raise InputError(
                f'{where}, {row.place}: domain "{GENERAL}" is for benign prompts only, '
                'but the label is "harmful"'
            )
        general = "general" if domain == GENERAL else "twin"
        identifier = _identifier(source, fields, prompt)
        taken[identifier] += 1
        again = f"-{taken[identifier]}" if taken[identifier] > 1 else ""
        yield {
            "id": identifier + again,
            "prompt": prompt,
            "domain": domain,
            "label": label,
            "kind": general if label == "benign" else None,
            "source": source.name,
            "category": _cell(fields, source.category_column),
            "pair": _pair(source, fields),
        }


def _identifier(source: Source, fields: Mapping[str, Any], prompt: str) -> str:
    parts = [part for column in source.id if (part := text_of(fields.get(column)))]
    own = "-".join(parts).removeprefix(source.id_prefix) or text_hash(prompt)
    return f"{source.name}-{own}"


def _pair(source: Source, fields: Mapping[str, Any]) -> str | None:
    value = _cell(fields, source.pair)
    return value and f"{source.pairs_with or source.name}-{value}"


def _cell(fields: Mapping[str, Any], column: str | None) -> str | None:
    return text_of(fields.get(column)) or None if column else None


def _loaded(
    source: Source,
    prompts: Sequence[Mapping[str, Any]],
    skipped: Mapping[str, int],
    notes: tuple[str, ...],
) -> Loaded:
    import pandas as pd

    columns = [column for column in COLUMNS if column != "pair" or source.pair]
    table = pd.DataFrame(prompts, columns=columns).astype("str")
    reasons = [(source.name, reason, count) for reason, count in skipped.items()]
    left_out = pd.DataFrame(reasons, columns=["source", "reason", "rows"])
    return Loaded(table, left_out.astype({"source": "str", "reason": "str", "rows": int}), notes)


# Format names of the datasets library; it reads all other formats as JSON.
BUILDERS = {".csv": "csv", ".parquet": "parquet"}


def fetch(source: Source) -> list[dict[str, Any]]:
    """A data set's rows from the hub or from its address, cached as ``datasets`` caches.

    Raises:
        InputError: the data set cannot be fetched; the message says what to do.
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
    # RuntimeError: the data set is a script, which the library no longer runs.
    except (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        advice = f"download it from {source.location} and give the file"
        if "://" not in source.location:
            page = f"https://huggingface.co/datasets/{source.location}"
            advice = (
                f"download it from {page} and give the file, or, where it is gated, accept its "
                "terms there and set HF_TOKEN"
            )
        raise InputError(
            f"{source.location} cannot be fetched ({first_line(error)}); {advice}"
        ) from error
    return [dict(row) for row in table]


def read_rows(path: str | Path) -> tuple[list[Record], tuple[str, ...]]:
    """Rows of a CSV, JSONL, JSON (one list) or parquet file, and notes on how it was read.

    A file that is not UTF-8 is read as Windows-1252; a note says so.

    Raises:
        InputError: the file is missing, empty, truncated, or in another format or encoding.
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
