"""The mapping of every benchmark as a table that people can read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from unlearning.data.sources.definitions import SOURCES
from unlearning.data.sources.schema import Above, Source, Values

if TYPE_CHECKING:
    import pandas as pd


def mappings_table(sources: Iterable[Source] = tuple(SOURCES.values())) -> pd.DataFrame:
    """One row for each source, in texts.

    Columns: ``name, location, licence, columns, domains, label, left_out, note``. ``location`` is
    the hub id (with config, file and split) or the address, ``columns`` which of its columns mean
    what, ``domains`` which categories go where (domains apart by ``|``), ``left_out`` which rows
    are not used, and why.
    """
    import pandas as pd

    rows = [
        {
            "name": source.name,
            "location": _location(source),
            "licence": source.licence,
            "columns": _columns(source),
            "domains": _domains(source),
            "label": _label(source),
            "left_out": _left_out(source),
            "note": source.note,
        }
        for source in sources
    ]
    return pd.DataFrame(rows).astype("str")


def _location(source: Source) -> str:
    if "://" in source.location:
        return source.location
    parts = (source.location, source.config, source.data_file, source.split)
    return ", ".join(part for part in parts if part)


def _columns(source: Source) -> str:
    said = {
        "prompt": source.prompt,
        "category": (source.category_column,),
        "label": source.label.columns if isinstance(source.label, Above) else (),
        "id": source.id,
        "pair": (source.pair,),
    }
    if isinstance(source.label, Values):
        said["label"] = (source.label.column,)
    named = {what: [column for column in columns if column] for what, columns in said.items()}
    return "; ".join(f"{what}: {' + '.join(columns)}" for what, columns in named.items() if columns)


def _domains(source: Source) -> str:
    if isinstance(source.domain, str):
        return f"{source.domain}: all"
    return _grouped(source.domain, source.category_names)


def _label(source: Source) -> str:
    if isinstance(source.label, str):
        return source.label
    if isinstance(source.label, Above):
        return f"harmful where {' + '.join(source.label.columns)} > {source.label.limit:g}"
    return _grouped(source.label)


def _left_out(source: Source) -> str:
    only = [f"{column} is not {' or '.join(values)}" for column, values in source.only.items()]
    names = source.category_names
    by_category = [
        f"{value} {names.get(value, '')}".strip() + f": {why}"
        for value, why in source.left_out.items()
    ]
    return " | ".join((*only, *by_category))


def _grouped(rule: Values, names: Mapping[str, str] = MappingProxyType({})) -> str:
    groups: dict[str, list[str]] = defaultdict(list)
    for value, to in rule.values.items():
        groups[to].append(f"{value} {names.get(value, '')}".strip() or "(empty)")
    return " | ".join(f"{to}: {'; '.join(values)}" for to, values in groups.items())
