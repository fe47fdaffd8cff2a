"""Define sources: public benchmarks, a user's TOML file, or the options of a command.

The module also shows the mapping of every benchmark as a readable table.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, expected
from unlearning.data.sources.schema import Above, Source, Values, is_file

if TYPE_CHECKING:
    import pandas as pd

BUILT_IN = "built-in"  # the matched pairs that come with the package
LISTS = ("prompt", "id")
RULES = {"column", "columns"}


def source_from_options(
    location: str,
    prompt: Sequence[str],
    *,
    domain: str | None = None,
    category: str | None = None,
    domains: Sequence[str] = (),
    left_out: Sequence[str] = (),
    label: str | None = None,
    label_column: str | None = None,
    labels: Sequence[str] = (),
    only: Sequence[str] = (),
    id: Sequence[str] = (),
    licence: str = "not stated",
    name: str | None = None,
    **part: Any,
) -> Source:
    """Make a source from plain strings, as a command line gives them.

    Args:
        location: a hub id, an address or a file.
        prompt: columns that make up the prompt.
        domain: the domain of all rows; or ``category``, a column, and ``domains``, a
            ``VALUE=DOMAIN`` for each of its values, and ``left_out``, a ``VALUE=WHY`` for each
            value whose rows are not used.
        label: the label of all rows; or ``label_column`` and ``labels``, as ``VALUE=LABEL``.
        only: ``COLUMN=VALUE`` for the rows to use; several values of a column are alternatives.
        name: by default the last part of the location, without its extension.
        part: ``config, split, data_file, revision`` of a hub data set.

    Raises:
        InputError: the domain or the label has no rule or two rules, or an ``=`` is missing.
    """
    kept: dict[str, tuple[str, ...]] = {}
    for column, value in _pairs("only", only):
        kept[column] = (*kept.get(column, ()), value)
    return Source(
        name=name or Path(location).name.split(".")[0],
        location=location,
        licence=licence,
        prompt=tuple(prompt),
        domain=_rule("domain", domain, "category", category, "domains", domains),
        label=_rule("label", label, "label_column", label_column, "labels", labels),
        left_out=dict(_pairs("left_out", left_out)),
        only=kept,
        id=tuple(id),
        **part,
    )


def _rule(
    what: str, all_rows: str | None, by: str, column: str | None, of: str, values: Sequence[str]
) -> str | Values:
    if all_rows and not column and not values:
        return all_rows
    if column and values and not all_rows:
        return Values(column, dict(_pairs(of, values)))
    raise InputError(f"give either one {what} for all rows, or {by} with {of}")


def _pairs(what: str, given: Sequence[str]) -> list[tuple[str, str]]:
    """Split ``VALUE=TO`` at the last equals sign: a category may contain one, a domain does not."""
    pairs = [(value, to) for value, _, to in (pair.rpartition("=") for pair in given)]
    for pair, text in zip(pairs, given, strict=True):
        if "=" not in text or not pair[1]:
            raise InputError(f'{what}: "{text}" is not a pair; expected VALUE=...')
    return pairs


def read_sources(path: str | Path, known: Mapping[str, Source] | None = None) -> dict[str, Source]:
    """Read the sources of a TOML file, one table per source.

    The table's name is the source's name, and its keys are the source's attributes.
    ``like = "NAME"`` takes all other attributes from one of ``known`` (default: the public
    benchmarks) or from an earlier table. A file in ``location`` is relative to the TOML file.

    Raises:
        InputError: the file does not exist or is not TOML, or a table is invalid; names it.
    """
    import tomllib

    from pydantic import TypeAdapter, ValidationError

    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as TOML ({error})") from error
    sources: dict[str, Source] = {}
    known, adapter = SOURCES if known is None else known, TypeAdapter(Source)
    for name, table in tables.items():
        try:
            entry = _entry(name, table, path, {**known, **sources})
            sources[name] = adapter.validate_python(entry)
        except ValidationError as error:
            # A rule may also be a string, but the error about the string does not help the user.
            first = min(error.errors(), key=lambda found: found["type"] == "string_type")
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f'{path}, table "{name}": {where}: {first["msg"]}') from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
    if not sources:
        raise InputError(f"{path} has no tables; expected one for each source, as in [NAME]")
    return sources


def _entry(name: str, table: Any, path: Path, known: Mapping[str, Source]) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise InputError(f'"{name}" is not a table; expected [NAME] and below it its keys')
    table = dict(table)
    inherited: dict[str, Any] = {"licence": "not stated"}
    if like := table.pop("like", None):
        if like not in known:
            raise InputError(f'"{name}" is like "{like}"; known are {", ".join(known)}')
        inherited = asdict(known[like])
    expected = [key for key in Source.__dataclass_fields__ if key != "name"]
    for key in table:
        if key not in expected:
            raise InputError(
                f'"{name}" has the unknown key "{key}"; expected like, {", ".join(expected)}'
            )
    for key in LISTS:
        if isinstance(table.get(key), str):
            table[key] = [table[key]]
    location = table.get("location")
    if isinstance(location, str) and is_file(location):
        table["location"] = str(path.parent / location)
    return _over(table, inherited) | {"name": name}


def _over(table: Mapping[str, Any], inherited: Mapping[str, Any]) -> dict[str, Any]:
    """Merge both; the table wins, and a rule that names its columns replaces the inherited one."""
    together = dict(inherited)
    for key, value in table.items():
        below = inherited.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and not RULES & value.keys():
            value = _over(value, below)
        together[key] = value
    return together


#: Public benchmarks by name.
SOURCES: Mapping[str, Source] = read_sources(Path(__file__).with_name("benchmarks.toml"), {})


def find_source(name: str, known: Mapping[str, Source] = SOURCES) -> Source:
    """The benchmark of that name.

    Raises:
        InputError: there is no such benchmark; names the most similar one, or lists all.
    """
    if name not in known:
        raise InputError(f'unknown source "{name}"{expected(name, (BUILT_IN, *known))}')
    return known[name]


def mappings_table(sources: Iterable[Source] = tuple(SOURCES.values())) -> pd.DataFrame:
    """One row for each source, all columns as text.

    Columns: ``name, location, licence, columns, domains, label, left_out, note``.

    - ``location``: the hub id (with config, file and split) or the address;
    - ``columns``: the meaning of each column of the data set;
    - ``domains``: the categories of each domain (domains separated by ``|``);
    - ``left_out``: the rows that are not used, and why.
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
