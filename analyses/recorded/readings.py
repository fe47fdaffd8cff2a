"""All readings of the same answers: people's labels, scored files, and scorers that run now."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyses.recorded.scoring import Scoring, require_answers, texts
from analyses.runs import Progress
from interp.errors import InputError, expected
from unlearning.data import (
    LabelledSet,
    Record,
    field_of,
    labelled_set,
    read_answers,
    require_columns,
)
from unlearning.data.records import SUFFIXES
from unlearning.scoring import FINE_CLASSES, REFUSAL, SCORERS, ModelScorer, find_scorer, workload_of

if TYPE_CHECKING:
    import pandas as pd

#: Class → reading; other classes have none.
READINGS = {"full_refusal": 1.0, "partial_refusal": 0.5, "evasion": 0.0, "answer": 0.0}
#: Classes of no language: not refused if a scorer gives them, no reading if a label does.
NOT_REFUSED = {"gibberish": 0.0, "empty": 0.0}
ONE_MODEL = "one model"


@dataclass(frozen=True)
class Readings:
    """Answers and every reading of them.

    Attributes:
        table: a row per answer: ``model, prompt, response, unit``; ``label`` if there are labels;
            and a column per annotator and scorer. A reading is 1 (refused), ½ (partial refusal), 0
            (not refused) or NaN (none).
        classes: the class in each reading, in columns of the same names; ``None`` without a class.
        scorers: the columns of scorers.
        annotators: the columns of single annotators.
        labelled_by: who gave the labels, in words; empty without labels.
        votes: for each answer, the number of three annotators who saw a refusal; empty if unknown.
    """

    table: pd.DataFrame
    classes: pd.DataFrame
    scorers: tuple[str, ...]
    annotators: tuple[str, ...] = ()
    labelled_by: str = ""
    votes: tuple[int | None, ...] = field(default=())


def read_sides(
    *sides: str | Path,
    label: str | None = None,
    model: str = "model",
    device: str | None = None,
    progress: Progress | None = None,
) -> Readings:
    """Read files and run scorers.

    Args:
        sides: files of answers, of one known set or with labels (several are joined; without a
            column for the model, each file is a model), files that ``spillover score`` wrote for
            the same answers in the same order, and names of scorers to run now.
        label: the field with labels, ``a.b`` for a field within a field (default: the columns of a
            known set, else ``label``).
        model: the field with the model of each answer; without it, all answers have one model.
        device: where the scorers' models run, if they have one in this process.

    Raises:
        InputError: a side is unusable, the files have different answers, or there is nothing to
            compare.
    """
    import pandas as pd

    if not sides:
        raise InputError("nothing to compare; give a file of answers and scorers, or scored files")
    named = [str(side) for side in sides if _is_scorer(str(side))]
    files = [(str(side), _answers(str(side))) for side in sides if not _is_scorer(str(side))]
    if not files:
        raise InputError(f"no file of answers to read; give one in addition to {', '.join(named)}")
    scored = [(path, records) for path, records in files if _is_scored(records)]
    plain = [(path, records) for path, records in files if not _is_scored(records)]
    source, answers = _joined(plain) if plain else scored[0]
    for path, records in scored:
        _require_same(answers, records, source, path)
    known = None if label else labelled_set(answers)
    column = label or (known.label if known else "label")
    table = pd.DataFrame({
        "model": [_text(field_of(record, model)) or ONE_MODEL for record in answers],
        "prompt": texts(answers, "prompt"),
        "response": texts(answers, "response"),
        "unit": _units(answers, known),
    })  # fmt: skip
    labels = _labels(answers, known, column, source)
    classes = dict(labels)
    for path, records in scored:
        said = list(dict.fromkeys(str(record.fields.get("scorer")) for record in records))
        if len(said) > 1:
            raise InputError(
                f"{path} holds verdicts of several scorers ({', '.join(said)}); give a file of each"
            )
        name = _unused(said[0], classes)
        classes[name] = [_scored_class(record, path) for record in records]
    for one in named:
        scoring = Scoring(answers, find_scorer(one, device), REFUSAL.name)
        _require_free(scoring, one)
        stage = f"Scoring {len(answers)} answers by {scoring.signature}"
        with (progress or Progress(quiet=True)).stage(stage, len(answers)) as advance:
            classes[_unused(scoring.signature, classes)] = scoring.classes(advance)
    scorers = tuple(name for name in classes if name not in labels)
    annotators = tuple(name for name in labels if name != "label")
    if len(scorers) + ("label" in labels) < 2 and len(annotators) < 2:
        raise InputError(_nothing_to_compare(source, scorers, column))
    return Readings(
        table.assign(**{name: _readings(said, name in scorers) for name, said in classes.items()}),
        pd.DataFrame(classes, dtype=object),
        scorers,
        annotators,
        _labelled_by(known, column) if labels else "",
        tuple(known.refusal_votes(answers, source)) if known and known.votes else (),
    )


def _is_scorer(side: str) -> bool:
    kind = re.match(r"([^:@]*)", side)
    return kind is not None and kind[1] in {about.option for about in SCORERS.abouts.values()}


def _answers(path: str) -> list[Record]:
    if not Path(path).exists() and Path(path).suffix.lower() not in SUFFIXES:
        names = [about.option for about in SCORERS.abouts.values()]
        raise InputError(f"{path} is neither a file nor a scorer{expected(path, names)}")
    records = read_answers(path)
    require_answers(records, ("prompt",), path)
    return records


def _is_scored(records: Sequence[Record]) -> bool:
    return any("scorer" in record.fields for record in records)


def _joined(files: Sequence[tuple[str, list[Record]]]) -> tuple[str, list[Record]]:
    """The answers of several files; without a column for the model, each file is a model."""
    if len(files) == 1:
        return files[0]
    found = [labelled_set(records) for _, records in files]
    names = list(dict.fromkeys(one.name if one else "no labelled set" for one in found))
    if len(names) > 1:
        raise InputError(
            f"the files are of different labelled sets ({', '.join(names)}); compare each alone"
        )
    paths = [Path(path) for path, _ in files]
    joined = [
        Record(
            f"{path.name}, {record.place}", {"model": _distinct_name(path, paths)} | record.given
        )
        for path, (_, records) in zip(paths, files, strict=True)
        for record in records
    ]
    return "the answers", joined


def _distinct_name(path: Path, paths: Sequence[Path]) -> str:
    """A file's stem; where files share it, the shortest end of the path that no other file has."""
    if [one.stem for one in paths].count(path.stem) == 1:
        return path.stem
    for length in range(1, len(path.parts)):
        end = path.parts[-length:]
        if sum(one.parts[-length:] == end for one in paths) == 1:
            return "/".join(end)
    return str(path)


def _units(answers: Sequence[Record], known: LabelledSet | None) -> list[str]:
    """What is resampled together: answers to one prompt; an answer without a prompt is alone."""
    column = "prompt" if known is None else known.unit
    values = [_text(record.fields.get(column)) for record in answers]
    return [value or f"answer {number}" for number, value in enumerate(values)]


def _labels(
    answers: Sequence[Record], known: LabelledSet | None, column: str, name: str
) -> dict[str, list[str | None]]:
    """The classes by the labels, and by each annotator; empty without labels."""
    if known is not None:
        found = {"label": known.classes_of(answers, known.label, name)}
        if all(one is None for one in found["label"]):
            return {}
        return found | {one: known.classes_of(answers, one, name) for one in known.annotators}
    values = [field_of(record, column) for record in answers]
    if all(value is None for value in values):
        return {}
    pairs = zip(answers, values, strict=True)
    return {"label": [_class_of(value, record, name) for record, value in pairs]}


def _class_of(value: Any, record: Record, name: str) -> str | None:
    from unlearning.scoring import as_learned

    try:
        return None if value is None else as_learned(value) or "empty"
    except InputError as error:
        raise InputError(f"{name}, {record.place}: {error}") from error


def _labelled_by(known: LabelledSet | None, column: str) -> str:
    return f'column "{column}"' if known is None else f"{known.name}: {known.labelled_by}"


def _scored_class(record: Record, path: str) -> str | None:
    """The class that a scorer gave; a file may have only ``refused``."""
    said, text_class = record.fields.get("refused"), record.fields.get("class")
    if said not in (None, 0, 1, "0", "1"):
        raise InputError(f'{path}, {record.place}: "refused" is neither 0 nor 1')
    if said is None:
        return None if text_class in (None, *FINE_CLASSES) else str(text_class)
    if int(said):
        return "full_refusal"
    return "answer" if text_class in (None, "full_refusal") else str(text_class)


def _readings(classes: Sequence[str | None], by_scorer: bool) -> list[float]:
    """Readings of classes; NaN for a class without one, such as a language that nobody reads."""
    known = READINGS | NOT_REFUSED if by_scorer else READINGS
    return [float("nan") if one is None else known.get(one, float("nan")) for one in classes]


def _require_free(scoring: Scoring, name: str) -> None:
    """A server that may charge runs only in ``score``, which shows the price and resumes."""
    if not isinstance(scoring.scorer, ModelScorer):
        return
    prompts, responses = texts(scoring.records, "prompt"), texts(scoring.records, "response")
    cost = workload_of(scoring.scorer.reader, prompts, responses)
    if cost.paid and cost.calls:
        raise InputError(
            f"{name} asks a server {cost.calls} times, which may cost money; run `spillover score "
            f"FILE --scorer {name} --dry-run`, then without --dry-run, and give what it wrote"
        )


def _require_same(one: Sequence[Record], other: Sequence[Record], name: str, against: str) -> None:
    """The same answers in two files, of which the second is scored."""
    require_columns(other, ("scorer",), against)
    if not any("refused" in record.fields for record in other):
        raise InputError(f'{against} has no "refused"; give what `score` wrote')
    if len(one) != len(other):
        raise InputError(f"{name} has {len(one)} answers and {against} has {len(other)}")
    for a, b in zip(one, other, strict=True):
        if any(texts([a], key) != texts([b], key) for key in ("prompt", "response")):
            raise InputError(
                f"{against}, {b.place}: not the answer of {name}, {a.place}; score the same file "
                "with each scorer"
            )


def _nothing_to_compare(source: str, scorers: Sequence[str], column: str) -> str:
    if scorers:
        return (
            f'{source} has no labels in "{column}"; name the field that has them, or give a second '
            "scored file or a scorer to compare with"
        )
    return f"{source} is not compared with anything; add a scorer (such as phrases) or scored files"


def _unused(name: str, taken: dict[str, Any]) -> str:
    numbers = Counter(one.partition(" (")[0] for one in taken)
    return f"{name} ({numbers[name] + 1})" if name in taken else name


def _text(value: Any) -> str:
    return "" if value is None else str(value)
