"""The schema of one data set: the meaning of its columns, as one declarative record."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interp.errors import InputError, expected
from unlearning.data.conversations import last_user_turn, messages_in
from unlearning.data.prompts import DOMAINS, GENERAL, LABELS
from unlearning.data.records import SUFFIXES


def text_of(value: Any) -> str:
    """A cell as text without outer white space, with LF line ends; empty for a null.

    A conversation in chat format becomes its last user turn. A list of texts becomes paragraphs;
    any other structure becomes JSON.
    """
    if messages := messages_in(value):
        value, _ = last_user_turn(messages)
    if value is None or value != value:  # a NaN is not itself
        return ""
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        value = "\n\n".join(value)
    elif isinstance(value, (list, tuple, dict)):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return str(value).replace("\r\n", "\n").replace("\r", "\n").strip()


def category_key(value: Any) -> str:
    """Normalise a category: ignore case, a trailing colon or slash, and repeated spaces."""
    return re.sub(r"\s+", " ", text_of(value)).casefold().rstrip(" :/")


@dataclass(frozen=True)
class Values:
    """A domain or a label for each value of a column; the value ``""`` stands for a null."""

    column: str
    values: Mapping[str, str]

    def of(self, fields: Mapping[str, Any]) -> str | None:
        """The domain or label of this row's value; None if the value is not known."""
        key = category_key(fields.get(self.column))
        return next((to for value, to in self.values.items() if category_key(value) == key), None)


@dataclass(frozen=True)
class Above:
    """Harmful if the sum of some numeric columns is above a limit, otherwise benign."""

    columns: tuple[str, ...]
    limit: float

    def of(self, fields: Mapping[str, Any]) -> str | None:
        """The label; None where a column holds no number."""
        try:
            total = sum(float(text_of(fields.get(column))) for column in self.columns)
        except ValueError:
            return None
        if total != total:  # the text "nan"
            return None
        return "harmful" if total > self.limit else "benign"


@dataclass(frozen=True)
class Source:
    """One data set: its location, the meaning of its columns, and the rows to use.

    Attributes:
        name: value of ``source`` in its rows, and prefix of its ids.
        location: a hub id, an address (``https://...``) or a file.
        licence: as stated by the publisher.
        prompt: columns that make up the prompt, joined by an empty line; empty cells are skipped.
        domain: one of the seven domains or ``general`` for all rows, or by the value of a column.
        label: ``harmful`` or ``benign`` for all rows, or by columns.
        config, split, data_file, revision: which part of a hub data set.
        left_out: values of the domain's column whose rows are not used, and why.
        category_names: what categories that are numbers stand for.
        only: for each of these columns, the values whose rows are used.
        category: the column kept as ``category`` (default: the domain's column).
        id: columns that make up the id, joined by ``-``; absent ones are skipped. Without any, the
            id is a hash.
        id_prefix: removed from an id, because releases of one data set use the same numbers with
            different prefixes.
        pair: a column whose value a harmful row shares with its matched benign prompt.
        pairs_with: the source that has the other half of the pairs.
        note: what a user should know.

    Raises:
        InputError: an unknown domain or label, or harmful rows in ``general``.
    """

    name: str
    location: str
    licence: str
    prompt: tuple[str, ...]
    domain: str | Values
    label: str | Values | Above
    config: str | None = None
    split: str = "train"
    data_file: str | None = None
    revision: str | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    category_names: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    category: str | None = None
    id: tuple[str, ...] = ()
    id_prefix: str = ""
    pair: str | None = None
    pairs_with: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self._check("domain", self.domains, (*DOMAINS, GENERAL))
        if isinstance(self.label, str):
            self._check("label", (self.label,), LABELS)
        elif isinstance(self.label, Values):
            self._check("label", tuple(self.label.values.values()), LABELS)
        if self.domains == (GENERAL,) and self.label != "benign":
            raise InputError(f'source "{self.name}": domain "{GENERAL}" needs the label "benign"')
        if self.left_out and not isinstance(self.domain, Values):
            raise InputError(
                f'source "{self.name}": left_out names values of the domain\'s column, but the '
                'domain is the same for all rows; use "only"'
            )

    def _check(self, what: str, found: tuple[str, ...], known: tuple[str, ...]) -> None:
        for value in found:
            if value not in known:
                raise InputError(
                    f'source "{self.name}": unknown {what} "{value}"{expected(value, known)}'
                )

    @property
    def domains(self) -> tuple[str, ...]:
        """Domains that its rows can have."""
        if isinstance(self.domain, str):
            return (self.domain,)
        return tuple(dict.fromkeys(self.domain.values.values()))

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that a file of it must have."""
        by_value = [self.domain, self.label]
        columns = [rule.column for rule in by_value if isinstance(rule, Values)]
        columns += self.label.columns if isinstance(self.label, Above) else ()
        return tuple(dict.fromkeys((*self.prompt, *columns, *self.only)))

    @property
    def category_column(self) -> str | None:
        """The column that is kept as ``category``."""
        by_domain = self.domain.column if isinstance(self.domain, Values) else None
        return self.category or by_domain


def is_file(location: str) -> bool:
    """Whether a location is a file and not an address or a hub id."""
    return "://" not in location and Path(location).suffix.lower() in SUFFIXES
