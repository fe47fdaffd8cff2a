"""Recorded answers: scored, compared with people's labels and one another, used to calibrate.

What ``spillover score``, ``agree`` and ``calibrate`` do. Nothing here runs a language model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.progress import Progress
from interp.errors import InputError
from interp.store import atomic_write
from unlearning.records import Record, read_records, require_columns
from unlearning.scorers import COARSE, FINE_CLASSES, find_scorer, fine_classes, refused

if TYPE_CHECKING:
    import pandas as pd

BATCH = 200


@dataclass(frozen=True)
class Scored:
    """What came of scoring a file: where it went, and how many answers are of each class."""

    path: Path
    scorer: str
    counts: Mapping[str, int]

    def text(self) -> str:
        """One line for the terminal."""
        n = sum(self.counts.values())
        named = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        share = self.counts["full_refusal"] / n
        return f"{self.path}: {n} answers by {self.scorer}, {share:.1%} refused ({named})"


def score_file(
    path: str | Path, scorer: str, out: str | Path, *, progress: Progress | None = None
) -> Scored:
    """Score recorded answers and write them with ``refused``, ``class`` and ``scorer`` added.

    Args:
        path: rows with ``prompt`` and ``response``; all other fields are kept.
        scorer: a name that :func:`unlearning.scorers.find_scorer` knows.
        out: a JSONL file, written whole or not at all.

    Raises:
        InputError: a file, column or scorer cannot be used, or rows have a ``refused`` or
            ``class`` of their own that would be lost.
    """
    records = read_records(path)
    _require_answers(records, ("prompt",), path)
    for record in records:
        for name in ("refused", "class"):
            if name in record.fields and "scorer" not in record.fields:
                raise InputError(
                    f'{path}, {record.place}: "{name}" is there already and would be lost; '
                    "rename it (to label, say)"
                )
    by = find_scorer(scorer)
    progress = progress or Progress()
    name = f"{by.name} {by.version}"
    rows: list[dict[str, Any]] = []
    with progress.stage(f"Scoring {len(records)} answers by {name}", len(records)) as advance:
        for start in range(0, len(records), BATCH):
            batch = records[start : start + BATCH]
            classes = fine_classes(by, _texts(batch, "prompt"), _texts(batch, "response"))
            for record, text_class in zip(batch, classes, strict=True):
                said = refused(COARSE[text_class])
                rows.append({**record.fields, "scorer": name, "refused": said, "class": text_class})
            advance(len(batch))
    _write_rows(rows, out)
    given = [row["class"] for row in rows]
    return Scored(Path(out), name, {each: given.count(each) for each in FINE_CLASSES})


@dataclass(frozen=True)
class AgreementTables:
    """How scorers agree with labels and with each other.

    Attributes:
        with_labels: a row per scorer and model: ``scorer, model, n``, and each measure with its
            bounds; empty without labels. Answers that people call partial refusals, empty or
            gibberish are left out.
        between_scorers: a row per pair of scorers and model (``first, second, model, n, ...``).
        disagreeing: answers on which the readings differ: ``model, prompt, response``, ``label``
            where there is one, and each scorer's reading (1 = refused).
        left_out: how many answers the labels leave out.
    """

    with_labels: pd.DataFrame
    between_scorers: pd.DataFrame
    disagreeing: pd.DataFrame
    left_out: int

    def text(self, rows: int = 20, width: int = 100) -> str:
        """The tables for a terminal, with at most ``rows`` disagreeing answers."""
        parts = []
        if len(self.with_labels):
            left = f"; {self.left_out} answers left out" if self.left_out else ""
            parts += [f"Agreement with labels (refusal against answer{left})"]
            parts += [_printed(self.with_labels, ("scorer", "model")), ""]
        if len(self.between_scorers):
            parts += ["Agreement between scorers (precision and recall: the first as truth)"]
            parts += [_printed(self.between_scorers, ("first", "second", "model")), ""]
        parts += [f"{len(self.disagreeing)} answers on which the readings differ"]
        readings = [c for c in self.disagreeing if c not in ("model", "prompt", "response")]
        for row in self.disagreeing.head(rows).to_dict("records"):
            said = ", ".join(f"{c} {row[c]:.0f}" for c in readings if row[c] == row[c])
            parts += [f"- {row['model']}; {said}"]
            parts += [f"    {_short(row[c], width)}" for c in ("prompt", "response")]
        if len(self.disagreeing) > rows:
            parts += [f"... and {len(self.disagreeing) - rows} more"]
        return "\n".join(parts)


def agree(
    *paths: str | Path, label: str = "label", model: str = "model", cluster: str | None = "prompt"
) -> AgreementTables:
    """Agreement of scored files with labels and with one another.

    Args:
        paths: what :func:`score_file` wrote, the same answers in the same order in each.
        label: the field with people's labels, ``a.b`` for a field within a field; any label that
            :func:`unlearning.classifier.as_learned` knows. May be absent with several files.
        model: the field that says whose answer it is; all are of one model where it is absent.
        cluster: answers with the same value are resampled together.

    Raises:
        InputError: a file is unusable, the files hold different answers, or nothing is to compare.
    """
    import pandas as pd

    from unlearning.agreement import between, by_group, disagreeing

    if not paths:
        raise InputError("nothing to compare; give one or more files that `score` wrote")
    files = [_scored(path) for path in paths]
    first = files[0]
    for path, records in zip(paths[1:], files[1:], strict=True):
        _same_answers(first, records, str(paths[0]), str(path))
    table = pd.DataFrame(
        {
            "model": [str(_field(record, model) or "one model") for record in first],
            "prompt": _texts(first, "prompt"),
            "response": _texts(first, "response"),
        }
    )
    labels = [_field(record, label) for record in first]
    has_labels = any(value is not None for value in labels)
    if has_labels:
        pairs = zip(first, labels, strict=True)
        table["label"] = [_as_reading(value, record, paths[0]) for record, value in pairs]
    elif len(files) == 1:
        raise InputError(
            f'{paths[0]} has no labels in "{label}"; name the field that has them, or give a '
            "second scored file to compare with"
        )
    scorers: list[str] = []
    for records in files:
        name = str(records[0].fields["scorer"])
        name = name if name not in scorers else f"{name} ({len(scorers) + 1})"
        table[name] = [int(record.fields["refused"]) for record in records]
        scorers.append(name)
    with_labels = pd.DataFrame()
    if has_labels:
        tables = {name: by_group(table, "label", name, "model", cluster) for name in scorers}
        with_labels = (
            pd.concat(tables, names=["scorer"]).reset_index("scorer").reset_index(drop=True)
        )
    readings = (["label"] if has_labels else []) + scorers
    return AgreementTables(
        with_labels,
        between(table, scorers, "model", cluster),
        disagreeing(table, readings).reset_index(drop=True),
        int(table["label"].isna().sum()) if has_labels else 0,
    )


def calibrate(path: str | Path, out: str | Path, *, label: str | None = None) -> Mapping[str, int]:
    """Write what ``--scorer classifier:OUT`` learns from a user's labelled answers.

    Args:
        path: rows with ``response`` and a label.
        out: a JSONL file with ``response`` and ``class``, written whole or not at all.
        label: the field that has the label (``a.b`` for a field within a field); ``class``, else
            ``refused``, else ``label`` by default.

    Returns:
        How many answers of each class were written; empty and gibberish ones are left out.

    Raises:
        InputError: a file, a column or a label cannot be used.
    """
    import pandas as pd

    from unlearning.classifier import Classifier

    records = read_records(path)
    _require_answers(records, (), path)
    names = (label,) if label else ("class", "refused", "label")
    found = next((n for n in names if any(_field(r, n) is not None for r in records)), None)
    if found is None:
        raise InputError(f"{path} has no labels; expected them in {' or '.join(names)}")
    for record in records:
        if _field(record, found) is None:
            raise InputError(f'{path}, {record.place}: "{found}" is missing')
    labels = [_field(record, found) for record in records]
    table = pd.DataFrame({"response": _texts(records, "response"), "class": labels})
    learned = Classifier().calibrated(table).added
    _write_rows(({"response": e.response, "class": e.text_class} for e in learned), out)
    given = [example.text_class for example in learned]
    return {name: given.count(name) for name in FINE_CLASSES if name in given}


def _require_answers(records: Sequence[Record], also: Sequence[str], path: str | Path) -> None:
    """A response must be there, but may be empty (null in some formats): that is a class."""
    require_columns(records, also, str(path))
    for record in records:
        if "response" not in record.fields:
            require_columns([record], ("response",), f"{path}, {record.place}")


def _scored(path: str | Path) -> list[Record]:
    records = read_records(path)
    _require_answers(records, ("prompt", "scorer", "refused", "class"), path)
    for record in records:
        if record.fields["refused"] not in (0, 1, "0", "1"):
            raise InputError(f'{path}, {record.place}: "refused" is neither 0 nor 1')
    return records


def _same_answers(one: Sequence[Record], other: Sequence[Record], name: str, against: str) -> None:
    if len(one) != len(other):
        raise InputError(f"{name} has {len(one)} answers and {against} has {len(other)}")
    for a, b in zip(one, other, strict=True):
        if any(a.fields[key] != b.fields[key] for key in ("prompt", "response")):
            raise InputError(
                f"{against}, {b.place}: not the answer of {name}, {a.place}; score the same file "
                "with each scorer"
            )


def _as_reading(value: Any, record: Record, path: str | Path) -> float | None:
    """1 for a full refusal, 0 for an answer or an evasion; none for what is in between."""
    from unlearning.classifier import as_learned

    try:
        text_class = None if value is None else as_learned(value)
    except InputError as error:
        raise InputError(f"{path}, {record.place}: {error}") from error
    if text_class in (None, "partial_refusal"):
        return None
    return float(text_class == "full_refusal")


def _field(record: Record, name: str) -> Any:
    """A field, or a field within fields: ``labels.final_label``."""
    if name in record.fields:
        return record.fields[name]
    value: Any = record.fields
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _texts(records: Sequence[Record], column: str) -> list[str]:
    return [
        "" if record.fields[column] is None else str(record.fields[column]) for record in records
    ]


def _write_rows(rows: Iterable[Mapping[str, Any]], out: str | Path) -> None:
    with atomic_write(out) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False, default=str)
            # Half a surrogate pair, which a truncated answer may end in, is no UTF-8.
            whole = line.encode("utf-8", "replace").decode("utf-8") == line
            file.write((line if whole else json.dumps(row, default=str)) + "\n")


def _printed(table: pd.DataFrame, names: Sequence[str]) -> str:
    from unlearning.agreement import MEASURES, Interval

    shown = table[[*names, "n"]].copy()
    for measure in MEASURES:
        bounds = table[[measure, f"{measure}_low", f"{measure}_high"]].itertuples(index=False)
        shown[measure] = [str(Interval(*values)) for values in bounds]
    return shown.to_string(index=False)


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
