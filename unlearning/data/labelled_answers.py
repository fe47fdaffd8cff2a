"""Answers that others have labelled, in the published form of four data sets.

A file is recognised by its columns. Each set says which columns hold the response, the label, the
labels of single annotators and the model, and which class each label means. No row of any set is
in the package; ``docs/explanation/scoring.md`` says what of each schema was verified, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import InputError, brief
from unlearning.data.records import Record, field_of, read_records

ANNOTATORS = 3  # of WildGuardTest


@dataclass(frozen=True)
class LabelledSet:
    """The published form of one set of labelled answers.

    Attributes:
        name: for messages.
        labelled_by: who gave the labels, in a few words.
        columns: a file that has all of them is of this form.
        label: the column with the final label.
        classes: what each label means, by its text in lower case.
        annotators: columns with the labels of single annotators.
        votes: the column with the number of the three annotators who gave the final label.
        response: the response of a row, where the column ``response`` does not hold it.
        prompt: the prompt of a row, where the column ``prompt`` may be missing.
        model: the column with the model, if there is one.
        unit: the column of which rows with one value belong together (default: the prompt).
    """

    name: str
    labelled_by: str
    columns: tuple[str, ...]
    label: str
    classes: Mapping[str, str]
    annotators: tuple[str, ...] = ()
    votes: str | None = None
    response: Callable[[Record], Any] = lambda record: record.fields.get("response")
    prompt: Callable[[Record], Any] = lambda record: record.fields.get("prompt")
    model: str | None = None
    unit: str = "prompt"

    def matches(self, records: Sequence[Record]) -> bool:
        """Whether rows have the columns of this form; null cells count."""
        return all(any(_has(record, name) for record in records) for name in self.columns)

    def answers(self, records: Sequence[Record]) -> list[Record]:
        """The rows with ``prompt``, ``response`` and, if the set names it, ``model``."""
        found = []
        for record in records:
            added = {"prompt": self.prompt(record) or "", "response": self.response(record)}
            if self.model is not None:
                added["model"] = record.fields.get(self.model)
            found.append(Record(record.place, {**record.given, **added}))
        return found

    def classes_of(self, records: Sequence[Record], column: str, name: str) -> list[str | None]:
        """The class of each row by the label in ``column``; ``None`` where there is no label.

        Raises:
            InputError: a label is unknown; names the row of the file ``name``.
        """
        return [self._class_of(record, column, name) for record in records]

    def _class_of(self, record: Record, column: str, name: str) -> str | None:
        value = _cell(record, column)
        if value is None:
            return None
        text = str(value).strip().casefold().removesuffix(".0")
        if text not in self.classes:
            raise InputError(
                f'{name}, {record.place}: unknown label "{brief(value)}" in "{column}"; '
                f"{self.name} has {', '.join(self.classes)} (for others, give --label-column)"
            )
        return self.classes[text]

    def refusal_votes(self, records: Sequence[Record], name: str) -> list[int | None]:
        """The number of the three annotators who saw a refusal; ``None`` where unknown."""
        if self.votes is None:
            return [None] * len(records)
        found: list[int | None] = []
        for record, final in zip(records, self.classes_of(records, self.label, name), strict=True):
            try:
                agreed = float(str(_cell(record, self.votes)))
            except ValueError:
                agreed = 0.0
            known = final is not None and agreed in (2, 3)
            agreeing = int(agreed) if final == "full_refusal" else ANNOTATORS - int(agreed)
            found.append(agreeing if known else None)
        return found


def labelled_set(records: Sequence[Record]) -> LabelledSet | None:
    """The set whose form the rows have, if it is a known one."""
    return next((one for one in LABELLED_SETS if one.matches(records)), None)


def read_answers(path: str | Path) -> list[Record]:
    """The rows of a file; those of a known set also have ``prompt``, ``response`` and ``model``.

    Raises:
        InputError: as :func:`unlearning.data.read_records`.
    """
    records = read_records(path)
    found = labelled_set(records)
    return records if found is None else found.answers(records)


def _cell(record: Record, column: str) -> Any:
    """A column, also if the labels stand together in one field ``labels``."""
    value = record.fields.get(column)
    return field_of(record, f"labels.{column}") if value is None else value


def _has(record: Record, column: str) -> bool:
    nested = record.fields.get("labels")
    return column in record.fields or (isinstance(nested, dict) and column in nested)


def _completion(record: Record) -> Any:
    """The response of XSTest's files, which call it ``completion``."""
    return record.fields.get("completion", record.fields.get("response"))


def _first_choice(record: Record) -> Any:
    """The response of a FastChat row: the turns of its first choice."""
    choices = record.fields.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else {}
    return _turns(first.get("turns") if isinstance(first, dict) else None)


def _asked(record: Record) -> Any:
    """The prompt of a FastChat row, if its questions were joined: ``prompt``, else ``turns``."""
    return record.fields.get("prompt") or _turns(record.fields.get("turns"))


def _turns(turns: Any) -> Any:
    return "\n\n".join(map(str, turns)) if isinstance(turns, list) else turns


LABELLED_SETS = (
    LabelledSet(
        "XSTest completions",
        "two annotators, with a final label",
        columns=("final_label", "annotation_1", "annotation_2"),
        label="final_label",
        classes={
            "1_full_compliance": "answer",
            "2_full_refusal": "full_refusal",
            "3_partial_refusal": "partial_refusal",
        },
        annotators=("annotation_1", "annotation_2"),
        response=_completion,
    ),
    LabelledSet(
        "WildGuardTest",
        "the majority of three annotators",
        # WildGuardTrain has the label without the agreement: GPT-4 gave it.
        columns=("response_refusal_label", "response_refusal_agreement", "response"),
        label="response_refusal_label",
        classes={"refusal": "full_refusal", "compliance": "answer"},
        votes="response_refusal_agreement",
    ),
    LabelledSet(
        "SORRY-Bench human judgments",
        "one annotator per answer",
        columns=("question_id", "choices", "human_score"),
        label="human_score",
        classes={"0": "full_refusal", "1": "answer"},
        response=_first_choice,
        prompt=_asked,
        model="model_id",
        unit="question_id",
    ),
    LabelledSet(
        "OR-Bench responses",
        "a judge (GPT-4 or Llama 3), not people",
        columns=("answer_category", "answer_type_response", "response"),
        label="answer_category",
        classes={
            "direct_answer": "answer",
            "direct_refusal": "full_refusal",
            "indirect_refusal": "full_refusal",
        },
    ),
)
