"""The prompts table: prompts with their domain, label (harmful or benign) and split.

One row per prompt, with the columns ``id, prompt, domain, label, source, split, kind`` and any
others the file has. ``domain`` is one of the seven domains or ``general`` (benign only). ``kind``
distinguishes two kinds of benign prompt: ``twin`` is a matched benign prompt, which resembles a
harmful prompt of its domain; ``general`` is an everyday prompt. A column ``pair`` links a harmful
prompt with its matched benign prompt and keeps both in one split.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError, brief, expected
from unlearning.data.records import (
    Record,
    is_empty,
    numbered,
    read_records,
    require_characters,
    require_columns,
    require_scalars,
    with_single_turns,
)
from unlearning.data.splits import SPLITS, assign_splits, text_hash

if TYPE_CHECKING:
    import pandas as pd

DOMAINS = ("cybersecurity", "safety", "toxicity", "bias", "sensitive", "medical_legal", "privacy")
GENERAL = "general"
LABELS = ("harmful", "benign")
KINDS = ("twin", "general")
COLUMNS = ("id", "prompt", "domain", "label", "source", "split", "kind")
FEWEST_CONTROLS = 16
MATCHED_PAIRS = Path(__file__).with_name("matched_pairs.jsonl")


def read_prompts(path: str | Path, *, required_labels: Collection[str] = LABELS) -> pd.DataFrame:
    """The prompts table in a JSONL, CSV or parquet file, checked and completed.

    The file needs ``prompt``, ``domain`` and ``label``. Defaults for absent values:

    - ``id``: a hash of domain, label and prompt;
    - ``split``: from a hash of the group of near-duplicates (:mod:`unlearning.data.splits`);
    - ``kind``: ``general`` in the domain ``general``, ``twin`` in every other domain.

    Args:
        required_labels: labels that must occur; a study needs both, an evaluation needs none.

    Raises:
        InputError: the file cannot be read or a row is invalid; the message names the line.
    """
    return _table(_checked(read_records(path), str(path), required_labels))


def matched_pairs() -> pd.DataFrame:
    """The built-in prompts: harmful requests with matched benign prompts of one syntax and length.

    A direction or a probe fitted on harmful and harmless prompts may detect the type of text
    instead of the harm: questions or commands, short or long. Here each harmful request has a
    matched benign prompt that differs only in the words that make it harmful, so neither template
    nor length separates the two (``docs/how-to/prompts.md`` has the measured figures). Topic words
    may still separate them.

    The table covers all seven domains and the domain ``general`` (everyday prompts). Each of the
    seven has 120 pairs: one row for the harmful request and one for its matched benign prompt
    (``kind`` is ``twin``), with the same id in the column ``pair``. ``general`` has 160 rows, where
    ``pair`` is null. The file fixes the splits: about 60% train, 20% validation and 20% test of
    each domain. A pair stays in one split, and no near-duplicates are in different splits.
    ``source`` is always ``spillover``: the prompts are written for this package, none comes from a
    benchmark, and there are no answers.
    """
    return read_prompts(MATCHED_PAIRS)


def as_prompts(
    table: pd.DataFrame,
    name: str = "the prompts table",
    *,
    required_labels: Collection[str] = LABELS,
) -> pd.DataFrame:
    """A checked and completed copy of a table in memory, as :func:`read_prompts` does for a file.

    Raises:
        InputError: a column is missing or a row is invalid; names the row, counted from 1.
    """
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise InputError(f'{name} has two columns "{brief(twice)}"; rename one of them')
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    records = numbered({str(key): _plain(value) for key, value in row.items()} for row in rows)
    if not records:
        raise InputError(f"{name} is empty; expected at least one row")
    return _table(_checked(with_single_turns(records, name), name, required_labels))


def present_domains(prompts: pd.DataFrame) -> tuple[str, ...]:
    """Domains that have harmful prompts, in the usual order."""
    harmful = set(prompts.loc[prompts["label"] == "harmful", "domain"])
    return tuple(domain for domain in DOMAINS if domain in harmful)


def require_concepts(prompts: pd.DataFrame, concepts: Collection[str]) -> None:
    """Check that every concept can be unlearned: harmful prompts in each of the three splits.

    Raises:
        InputError: an unknown concept, or one without prompts; lists the domains that have some.
    """
    harmful = prompts[prompts["label"] == "harmful"]
    present = [domain for domain in DOMAINS if (harmful["domain"] == domain).any()]
    for concept in concepts:
        if concept not in DOMAINS:
            raise InputError(f'unknown concept "{concept}"{expected(concept, DOMAINS)}')
        if concept not in present:
            raise InputError(
                f'concept "{concept}" has no harmful prompts; '
                f"domains that have some: {', '.join(present)}"
            )
        counts = harmful.loc[harmful["domain"] == concept, "split"].value_counts()
        empty = [split for split in SPLITS if split not in counts.index]
        if empty:
            raise InputError(
                f'concept "{concept}" has {counts.sum()} harmful prompts but none for '
                f'{" and ".join(empty)}; add prompts, or give a "split" column'
            )


@dataclass(frozen=True)
class Controls:
    """Benign rows to contrast each domain's harmful ones with; no row serves two domains.

    The rows are disjoint because two directions fitted with one shared control set have cosine
    0.5 on pure noise. ``borrowed`` holds, for each domain with too few benign rows, the number of
    ``general`` rows that it borrows (0 if there are none).
    """

    rows: Mapping[str, pd.DataFrame]
    borrowed: Mapping[str, int]

    @property
    def note(self) -> str | None:
        """One sentence that says which domains borrowed, for every table; ``None`` if none did."""
        if not self.borrowed:
            return None
        lent = ", ".join(f"{domain} ({count})" for domain, count in self.borrowed.items())
        return (
            f"Fewer than {FEWEST_CONTROLS} benign prompts in the table, so these domains borrow "
            f"general ones as controls: {lent}."
        )


def controls(prompts: pd.DataFrame, split: str) -> Controls:
    """Disjoint control rows of one split for every domain that has harmful prompts.

    A domain borrows if it has fewer than 16 benign rows in the whole table, so the decision is the
    same in every split. Borrowing domains share the split's ``general`` rows evenly.
    """
    harmful = set(prompts.loc[prompts["label"] == "harmful", "domain"])
    benign = prompts[prompts["label"] == "benign"]
    own = {domain: benign[benign["domain"] == domain] for domain in DOMAINS if domain in harmful}
    borrowers = [domain for domain, rows in own.items() if len(rows) < FEWEST_CONTROLS]
    lendable = benign[(benign["domain"] == GENERAL) & (benign["split"] == split)]
    # By hash, not by file order: files are often sorted by source.
    order = lendable["id"].map(lambda identifier: text_hash("control", identifier)).argsort()
    lendable = lendable.iloc[order]

    rows, borrowed = {}, {}
    for domain, candidates in own.items():
        chosen = candidates[candidates["split"] == split]
        if domain in borrowers:
            share = lendable.iloc[borrowers.index(domain) :: len(borrowers)]
            borrowed[domain] = len(share)
            # By position: concatenating would lose dtypes where one of the two is empty.
            chosen = prompts[prompts["id"].isin({*chosen["id"], *share["id"]})]
        rows[domain] = chosen.reset_index(drop=True)
    return Controls(rows, borrowed)


def _checked(
    records: Sequence[Record], name: str, required_labels: Collection[str]
) -> Sequence[Record]:
    for record in records:
        if isinstance(text := record.given.get("prompt"), str) and not text.strip():
            raise InputError(f"{name}, {record.place}: the prompt is empty or no text")
    require_columns(records, ("prompt", "domain", "label"), name)
    require_scalars(records, (*COLUMNS, "pair"), name)
    require_characters(records, name)
    identifiers: dict[str, str] = {}
    labels: dict[str, Record] = {}
    for record in records:
        if problem := _problem(record.fields):
            raise InputError(f"{name}, {record.place}: {problem}")
        text, label = record.fields["prompt"], record.fields["label"]
        same = labels.setdefault(text.strip(), record)
        if same.fields["label"] != label:
            raise InputError(
                f'{name}: "{brief(text)}" is {same.fields["label"]} on {same.place} and {label} on '
                f"{record.place}; keep one of them"
            )
        identifier = record.fields.get("id")
        if identifier is None:
            continue
        earlier = identifiers.setdefault(str(identifier), record.place)
        if earlier != record.place:
            raise InputError(
                f'{name}: id "{brief(identifier)}" stands on {earlier} and on {record.place}; '
                'make ids unique, or leave out the "id" column'
            )
    present = {record.fields["label"] for record in records}
    for label in required_labels:
        if label not in present:
            raise InputError(f"{name} has no {label} rows; a study needs harmful and benign ones")
    return records


def _problem(fields: Mapping[str, Any]) -> str | None:
    """What is wrong with one row, in a few words; ``None`` if nothing is."""
    prompt, domain, label = fields["prompt"], fields["domain"], fields["label"]
    split, kind = fields.get("split"), fields.get("kind")
    if not isinstance(prompt, str) or not prompt.strip():
        return f"the prompt is empty or no text ({json.dumps(prompt, default=str)[:40]})"
    if domain not in (*DOMAINS, GENERAL):
        known = expected(str(domain), (*DOMAINS, GENERAL))
        return f'unknown domain "{brief(domain)}"{known} (benign only)'
    if label not in LABELS:
        return f'unknown label "{brief(label)}"{expected(str(label), LABELS)}'
    if domain == GENERAL and label == "harmful":
        return f'domain "{GENERAL}" is for benign prompts only, but the label is "harmful"'
    if split is not None and split not in SPLITS:
        return f'unknown split "{brief(split)}"{expected(str(split), SPLITS)}, or nothing'
    if kind is not None and kind not in KINDS:
        return f'unknown kind "{brief(kind)}"{expected(str(kind), KINDS)}, or nothing'
    if kind is not None and label == "harmful":
        return f'kind "{kind}" is for benign prompts only, but the label is "harmful"'
    return None


def _plain(value: Any) -> Any:
    """A value of NumPy as one of Python."""
    return value.tolist() if hasattr(value, "tolist") else value


def _table(records: Sequence[Record]) -> pd.DataFrame:
    """The checked rows as a table, with absent values filled in."""
    import pandas as pd

    rows = [record.fields for record in records]
    splits = assign_splits(
        [row["prompt"] for row in rows],
        [row.get("split") for row in rows],
        [_pair(row.get("pair")) for row in rows],
    )
    completed = {
        "id": _identifiers(rows),
        "prompt": [row["prompt"] for row in rows],
        "domain": [row["domain"] for row in rows],
        "label": [row["label"] for row in rows],
        "source": [None if row.get("source") is None else str(row["source"]) for row in rows],
        "split": splits,
        "kind": [_kind(row) for row in rows],
    }
    others = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    completed |= {key: _column([row.get(key) for row in rows]) for key in others}
    if "pair" in others:
        completed["pair"] = _column([_pair(row.get("pair")) for row in rows])
    table = pd.DataFrame(completed)
    return table.astype(dict.fromkeys(COLUMNS, "str"))


def _pair(value: Any) -> str | None:
    """The name of a pair: 3, 3.0 and "3" are one, as files of several formats have it."""
    if value is None:
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _identifiers(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Given ids as text; otherwise a content hash, numbered if a row occurs more than once."""
    repeats: Counter[str] = Counter()
    identifiers = []
    for row in rows:
        if row.get("id") is not None:
            identifiers.append(str(row["id"]))
            continue
        key = text_hash(row["domain"], row["label"], row["prompt"])
        repeats[key] += 1
        identifiers.append(key if repeats[key] == 1 else f"{key}-{repeats[key]}")
    return identifiers


def _kind(row: Mapping[str, Any]) -> str | None:
    if row["label"] == "harmful":
        return None
    return row.get("kind") or ("general" if row["domain"] == GENERAL else "twin")


def _column(values: list[Any]) -> list[Any]:
    """Values of one extra column; mixed types become JSON text, because parquet needs one type.

    So do whole numbers that a float cannot hold: next to a missing value, they would be rounded.
    """
    values = [None if is_empty(value) else value for value in values]
    types = {type(value) for value in values if value is not None}
    large = any(type(value) is int and abs(value) > 2**53 for value in values)
    if types <= {str} or types <= {bool} or (types <= {int, float} and not large):
        return values
    return [v if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values]
