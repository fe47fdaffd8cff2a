"""``spillover agree``: compare scored answers with people's labels and with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.recorded.scoring import field_of, require_answers, texts
from interp.errors import InputError
from unlearning.data import Record, read_records, require_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class AgreementTables:
    """Agreement of scorers with labels and with each other.

    Attributes:
        with_labels: a row per scorer and model: ``scorer, model, n``, and each measure with its
            bounds; empty without labels. Answers that people call partial refusals, empty or
            gibberish are left out.
        between_scorers: a row per pair of scorers and model (``first, second, model, n, ...``).
        disagreeing: answers on which the readings differ: ``model, prompt, response``, ``label``
            if it exists, and each scorer's reading (1 = refused).
        left_out: number of answers that the labels leave out.
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


def compare_with_labels(
    *paths: str | Path, label: str = "label", model: str = "model", cluster: str | None = "prompt"
) -> AgreementTables:
    """Agreement of scored files with labels and with each other.

    Args:
        paths: files of ``spillover score`` with the same answers in the same order. If a judge gave
            no verdict on an answer, only the other scorers are compared on it.
        label: the field with people's labels, ``a.b`` for a field within a field; any label that
            :func:`unlearning.scoring.as_learned` knows. Optional with several
            files.
        model: the field with the model of each answer; without it, all answers have one model.
        cluster: answers with the same value are resampled together.

    Raises:
        InputError: a file is unusable, the files have different answers, or there is nothing to
        compare.
    """
    import pandas as pd

    from unlearning.scoring import between, by_group, disagreeing

    if not paths:
        raise InputError("nothing to compare; give one or more files that `score` wrote")
    files = [_scored(path) for path in paths]
    first = files[0]
    for path, records in zip(paths[1:], files[1:], strict=True):
        _same_answers(first, records, str(paths[0]), str(path))
    table = pd.DataFrame(
        {
            "model": [str(field_of(record, model) or "one model") for record in first],
            "prompt": texts(first, "prompt"),
            "response": texts(first, "response"),
        }
    )
    labels = [field_of(record, label) for record in first]
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
        table[name] = [_reading(record.fields.get("refused")) for record in records]
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


def _scored(path: str | Path) -> list[Record]:
    records = read_records(path)
    require_answers(records, ("prompt", "scorer"), path)
    require_columns(records, ("scorer",), str(path))
    if not any(record.fields.get("refused") is not None for record in records):
        raise InputError(f'{path} has no "refused"; give what `score` wrote')
    for record in records:
        if record.fields.get("refused") not in (None, 0, 1, "0", "1"):
            raise InputError(f'{path}, {record.place}: "refused" is neither 0 nor 1')
    return records


def _reading(value: Any) -> float | None:
    return None if value is None else float(value)


def _same_answers(one: Sequence[Record], other: Sequence[Record], name: str, against: str) -> None:
    if len(one) != len(other):
        raise InputError(f"{name} has {len(one)} answers and {against} has {len(other)}")
    for a, b in zip(one, other, strict=True):
        if any(texts([a], key) != texts([b], key) for key in ("prompt", "response")):
            raise InputError(
                f"{against}, {b.place}: not the answer of {name}, {a.place}; score the same file "
                "with each scorer"
            )


def _as_reading(value: Any, record: Record, path: str | Path) -> float | None:
    """1 for a full refusal, 0 for an answer or an evasion, None for other classes."""
    from unlearning.scoring import as_learned

    try:
        text_class = None if value is None else as_learned(value)
    except InputError as error:
        raise InputError(f"{path}, {record.place}: {error}") from error
    if text_class in (None, "partial_refusal", "gibberish"):
        return None
    return float(text_class == "full_refusal")


def _printed(table: pd.DataFrame, names: Sequence[str]) -> str:
    from unlearning.scoring import MEASURES, Interval

    shown = table[[*names, "n"]].copy()
    for measure in MEASURES:
        bounds = table[[measure, f"{measure}_low", f"{measure}_high"]].itertuples(index=False)
        shown[measure] = [str(Interval(*values)) for values in bounds]
    return shown.to_string(index=False)


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
