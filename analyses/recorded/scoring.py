"""Score recorded answers or learn from them: ``spillover score, calibrate``.

Most scorers have the scale of refusals: ``refused`` and ``class``. Judges have two more, whether an
answer is biased or toxic and whether it is harmful; published guards have the last one, some of
them alone. The fields of each scale are separate and leave the others unchanged.

This module also checks files of recorded answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.costs import workload_estimate
from analyses.recorded.coherence import COHERENCE, TextCounts, coherence_fields
from analyses.runs import Progress
from interp.errors import InputError, expected
from interp.progress import Advance
from unlearning.data import (
    Record,
    field_of,
    labelled_set,
    read_answers,
    require_columns,
    require_scalars,
    without_half_characters,
    write_records,
)
from unlearning.scoring import (
    COARSE,
    FINE_CLASSES,
    REFUSAL,
    RUBRICS,
    ModelScorer,
    Scorer,
    Workload,
    find_scorer,
    fine_classes,
    panel_lines,
    readers_of,
    refused,
    verdicts,
    view_of_panel,
    workload_of,
    workload_of_reading,
)

BATCH = 200
#: Columns of each scale; a file without the last one comes from elsewhere.
COLUMNS = {
    name: ("refused", "class", *COHERENCE, "scorer")
    if name == REFUSAL.name
    else (rubric.positive, f"{rubric.positive}_scorer")
    for name, rubric in RUBRICS.items()
}


@dataclass(frozen=True)
class Scored:
    """The result of scoring a file: its path and the number of answers by class.

    Attributes:
        without: answers on which a judge gave no verdict: their fields are null.
        language: which answers are language, on the scale of refusals.
        notes: what the panel says about its verdicts, for each model.
    """

    path: Path
    scorer: str
    counts: Mapping[str, int]
    without: int = 0
    scale: str = REFUSAL.name
    language: TextCounts | None = None
    notes: Sequence[str] = ()

    def text(self) -> str:
        """A line for the terminal, and another for answers without a verdict."""
        judged = sum(self.counts.values())
        named = ", ".join(f"{count} {name}" for name, count in self.counts.items() if count)
        positive = RUBRICS[self.scale].positive
        hits = self.counts[positive]
        word = "refused" if self.scale == REFUSAL.name else positive.replace("_", " ")
        share = f"{hits / judged:.1%} {word} ({named})" if judged else "none of them judged"
        line = f"{self.path}: {judged + self.without} answers by {self.scorer}, {share}"
        if self.without:
            line += (
                f"\n{self.without} without a verdict of the model that reads; their fields are "
                "null and do not count"
            )
        if self.language is not None:
            line += f"\n{self.language.text(self.scorer.split()[0], self.counts)}"
        return "\n".join([line, *self.notes])


@dataclass(frozen=True)
class Scoring:
    """Answers and their scorer, checked before scoring."""

    records: Sequence[Record]
    scorer: Scorer
    scale: str

    def plan(
        self,
        prices: tuple[float, float] | None = None,
        *,
        device: str | None = None,
        timing: bool = False,
    ) -> str:
        """The cost of scoring.

        Args:
            prices: per million tokens read and written.
            device: where the scorer's model runs, if it has one in this process.
            timing: measure the speed of this model now.
        """
        asked = self._workload()
        if asked is None:
            return f"{self.scorer.name}: {len(self.records)} answers; no model is run"
        estimate = workload_estimate(asked, device, timing=timing)
        lines = estimate.lines() if estimate else []
        return "\n".join([asked.text(self.scorer.name, prices), *lines])

    def _workload(self) -> Workload | None:
        """The calls of the scorer's model; None without one."""
        answers = texts(self.records, "prompt"), texts(self.records, "response")
        if isinstance(self.scorer, ModelScorer):
            return workload_of(self.scorer.reader, *answers)
        readers = readers_of([self.scorer])
        return workload_of_reading(readers[0], *answers) if readers else None

    def classes(self, advance: Advance) -> list[str | None]:
        """The class of each answer on the scale; ``None`` without a verdict of the judge."""
        prompts, responses = texts(self.records, "prompt"), texts(self.records, "response")
        if isinstance(self.scorer, ModelScorer):
            return verdicts(self.scorer.reader, prompts, responses, progress=advance)
        found: list[str | None] = []
        for start in range(0, len(prompts), BATCH):
            batch = slice(start, start + BATCH)
            found += fine_classes(self.scorer, prompts[batch], responses[batch])
            advance(len(prompts[batch]))
        return found

    def panel_notes(self) -> list[str]:
        """How far the panel's verdicts on each model depend on its threshold and on a member."""
        lines = []
        models = [str(record.fields.get("model") or "the answers") for record in self.records]
        for model in dict.fromkeys(models):
            own = [row for row, name in zip(self.records, models, strict=True) if name == model]
            view = view_of_panel(
                self.scorer,
                [record.place for record in own],
                ["refused"] * len(own),
                (texts(own, "prompt"), texts(own, "response")),
            )
            lines += panel_lines(model, view)
        return lines

    @property
    def signature(self) -> str:
        """Name and version of the scorer."""
        return f"{self.scorer.name} {self.scorer.version}"

    def fields(self, text_class: str | None) -> dict[str, Any]:
        """The scale's value for an answer of this class; null without a verdict."""
        if self.scale == REFUSAL.name:
            said = None if text_class is None else refused(COARSE[text_class])
            return {"scorer": self.signature, "refused": said, "class": text_class}
        positive = RUBRICS[self.scale].positive
        said = None if text_class is None else int(text_class == positive)
        return {positive: said, f"{positive}_scorer": self.signature}


def prepare_scoring(
    path: str | Path, scorer: str, scale: str = REFUSAL.name, device: str | None = None
) -> Scoring:
    """Read a file and find the scorer; runs no model.

    Args:
        path: rows with ``prompt`` and ``response``.
        scorer: a name that :func:`unlearning.scoring.find_scorer` knows.
        scale: ``refusal``; ``harmful``, which judges and published guards have; or
            ``biased-or-toxic``, which only judges have.
        device: where the scorer's model runs, if it has one in this process.

    Raises:
        InputError: the file or the scorer cannot be used, or scoring would overwrite fields of the
        rows.
    """
    if scale not in COLUMNS:
        raise InputError(f"unknown scale {scale}{expected(scale, COLUMNS)}")
    records = read_answers(path)
    require_answers(records, ("prompt",), path)
    *written, signed = COLUMNS[scale]
    for record in records:
        for name in written:
            if name in record.fields and signed not in record.fields:
                raise InputError(
                    f'{path}, {record.place}: the field "{name}" exists already; '
                    "rename it, for example to label"
                )
    return Scoring(records, find_scorer(scorer, device, scale=scale), scale)


def score_records(scoring: Scoring, out: str | Path, progress: Progress) -> Scored:
    """Score recorded answers and write them with the scale's fields added.

    Those are ``refused``, ``class``, ``scorer`` and those of
    :func:`~analyses.recorded.coherence.coherence_fields` on the scale of refusals. On the others
    they are ``biased_or_toxic`` or ``harmful`` (1 or 0) and ``biased_or_toxic_scorer`` or
    ``harmful_scorer``. All other fields are kept.

    Args:
        out: a JSONL file, written whole or not at all.

    Raises:
        InputError: a model or server cannot be used.
    """
    name, total = scoring.signature, len(scoring.records)
    with progress.stage(f"Scoring {total} answers by {name}", total) as advance:
        classes = scoring.classes(advance)
    said = texts(scoring.records, "response")
    of_refusals = scoring.scale == REFUSAL.name
    coherence = [coherence_fields(response) if of_refusals else {} for response in said]
    rows: list[dict[str, Any]] = []
    for record, text_class, fields in zip(scoring.records, classes, coherence, strict=True):
        rows.append({**record.given, **scoring.fields(text_class), **fields})
    write_records(rows, out)
    known = FINE_CLASSES if of_refusals else RUBRICS[scoring.scale].verdicts.values()
    given = Counter(classes)
    counts = {each: given[each] for each in known}
    language = None
    if of_refusals:
        coherent = [fields["coherent"] for fields in coherence]
        language = TextCounts.of(said, coherent, note=given["other_language"] > 0)
    notes = scoring.panel_notes()
    return Scored(Path(out), name, counts, given[None], scoring.scale, language, notes)


def require_same_answers(out: Path, records: Sequence[Record]) -> None:
    """Check that a file of results, if it exists, is made from these answers.

    Raises:
        InputError: it has other prompts or responses, as those of another file of the same name.
    """
    held = read_answers(out) if out.exists() else []
    both = [*held, *records]
    columns = [name for name in ("prompt", "response") if all(name in one.fields for one in both)]

    def answers(rows: Sequence[Record]) -> set[tuple[str, ...]]:
        return set(zip(*(texts(rows, name) for name in columns), strict=True))

    if answers(held) - answers(records):
        raise InputError(f"{out} has the results of other answers; give --out")


def write_calibration(
    path: str | Path, out: str | Path, *, label: str | None = None
) -> Mapping[str, int]:
    """Write a user's labelled answers in the form that ``--scorer classifier:OUT`` learns from.

    Args:
        path: rows with ``response`` and a label.
        out: a JSONL file with ``response`` and ``class``, written whole or not at all.
        label: the field that has the label (``a.b`` for a field within a field). By default, the
            label of a known set (:mod:`unlearning.data.labelled_answers`), else ``class``, else
            ``refused``, else ``label``; in a file that `score` wrote, ``label`` alone.

    Returns:
        Numbers of written answers by class, including gibberish. Answers that a rule recognises
        without learning are left out (empty answers, text that is clearly not language).

    Raises:
        InputError: a file, a column or a label cannot be used.
    """
    import pandas as pd

    from unlearning.scoring import Classifier

    records = read_answers(path)
    require_answers(records, (), path)
    table = pd.DataFrame({"response": texts(records, "response")})
    table["class"] = _labels(records, label, str(path))
    table = table[table["class"].notna()]
    learned = Classifier().calibrated(table).added
    write_records(({"response": e.response, "class": e.text_class} for e in learned), out)
    given = [example.text_class for example in learned]
    return {name: given.count(name) for name in FINE_CLASSES if name in given}


def _labels(records: Sequence[Record], label: str | None, path: str) -> list[Any]:
    """The label of each row; in a known set, null where people agreed on none."""
    known = None if label else labelled_set(records)
    if known is not None:
        return known.classes_of(records, known.label, path)
    names = (label,) if label else ("class", "refused", "label")
    scored = not label and any(field_of(record, "scorer") is not None for record in records)
    if scored:  # there, class and refused are the scorer's
        names = names[-1:]
    found = next((n for n in names if any(field_of(r, n) is not None for r in records)), None)
    if found is None:
        why = "; class and refused are a scorer's, to learn from them give --label-column" * scored
        raise InputError(f"{path} has no labels; expected them in {' or '.join(names)}{why}")
    for record in records:
        if field_of(record, found) is None:
            raise InputError(f'{path}, {record.place}: "{found}" is missing')
    return [field_of(record, found) for record in records]


def require_answers(records: Sequence[Record], also: Sequence[str], path: str | Path) -> None:
    """Check that every row has ``response`` and the columns ``also``.

    The fields must exist, but text may be empty (null in some formats): an empty response is a
    class.

    Raises:
        InputError: naming the column and the first row without it.
    """
    require_scalars(records, ("prompt", "response", *also), str(path))
    for column in (*also, "response"):
        for record in records:
            if column not in record.fields:
                require_columns([record], (column,), f"{path}, {record.place}")


def texts(records: Sequence[Record], column: str) -> list[str]:
    """A column as text; missing values are empty, and halves of characters are left out."""
    values = (record.fields[column] for record in records)
    return ["" if value is None else without_half_characters(str(value)) for value in values]
