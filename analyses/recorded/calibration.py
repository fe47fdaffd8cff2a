"""A user's own labelled answers, for the classifier to learn from: ``spillover calibrate``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from analyses.recorded.answers import field_of, require_answers, texts
from interp.errors import InputError
from unlearning.data import read_records, write_records
from unlearning.scoring import FINE_CLASSES


def write_calibration(
    path: str | Path, out: str | Path, *, label: str | None = None
) -> Mapping[str, int]:
    """Write what ``--scorer classifier:OUT`` learns from a user's labelled answers.

    Args:
        path: rows with ``response`` and a label.
        out: a JSONL file with ``response`` and ``class``, written whole or not at all.
        label: the field that has the label (``a.b`` for a field within a field); ``class``, else
            ``refused``, else ``label`` by default.

    Returns:
        How many answers of each class were written, gibberish among them; left out is only what
        a rule tells without learning (empty answers, text that is plainly no language).

    Raises:
        InputError: a file, a column or a label cannot be used.
    """
    import pandas as pd

    from unlearning.scoring import Classifier

    records = read_records(path)
    require_answers(records, (), path)
    names = (label,) if label else ("class", "refused", "label")
    found = next((n for n in names if any(field_of(r, n) is not None for r in records)), None)
    if found is None:
        raise InputError(f"{path} has no labels; expected them in {' or '.join(names)}")
    for record in records:
        if field_of(record, found) is None:
            raise InputError(f'{path}, {record.place}: "{found}" is missing')
    labels = [field_of(record, found) for record in records]
    table = pd.DataFrame({"response": texts(records, "response"), "class": labels})
    learned = Classifier().calibrated(table).added
    write_records(({"response": e.response, "class": e.text_class} for e in learned), out)
    given = [example.text_class for example in learned]
    return {name: given.count(name) for name in FINE_CLASSES if name in given}
