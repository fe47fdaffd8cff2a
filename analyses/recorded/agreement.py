"""``spillover agree``: compare scorers with people's labels and with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.recorded.readings import Readings, read_sides
from analyses.runs import Progress

if TYPE_CHECKING:
    import pandas as pd

    from unlearning.scoring import Interval

KAPPAS = {
    "left out": "kappa",
    "refusal": "partial = refusal",
    "answer": "partial = answer",
    "class": "three classes",
}
COUNTS_AS = {0.5: "each way", 0.0: "not refused"}
ROWS = 10


@dataclass(frozen=True)
class AgreementTables:
    """Agreement of scorers with labels and with each other.

    Attributes:
        with_labels: a row per scorer, model and way to count partial refusals: ``scorer, model,
            n``, each measure with its bounds, and ``partial`` (``left out``, ``refusal``,
            ``answer`` or ``class``, of which the kappa is weighted). The worst model is first.
            Empty without labels.
        between_scorers: a row per pair of scorers and model (``first, second, model, n, ...``).
            What a scorer calls a partial refusal counts as not refused.
        between_people: the same as ``with_labels`` for each pair of annotators, on the answers
            whose label is not left out.
        people: agreement of people with one another where only votes are known (Fleiss' kappa).
        disagreeing: answers on which the readings differ, contradictions first: ``model, prompt,
            response``, ``label`` if it exists, and each scorer's reading (1 = refused, ½ =
            partial).
        counted: how many answers each reading calls partial, empty or gibberish, or does not
            read, and how they count: ``reading, class, n, counts_as``.
        left_out: number of answers that the labels leave out.
        labelled_by: who gave the labels.
    """

    with_labels: pd.DataFrame
    between_scorers: pd.DataFrame
    between_people: pd.DataFrame
    people: Interval | None
    disagreeing: pd.DataFrame
    counted: pd.DataFrame
    left_out: int
    labelled_by: str

    def text(self, rows: int = ROWS, width: int = 100) -> str:
        """The tables for a terminal, with at most ``rows`` disagreeing answers.

        Scorers are named without their versions, where that is unambiguous.
        """
        return self._named_shortly()._text(rows, width)

    def _named_shortly(self) -> AgreementTables:
        named = [*self.disagreeing.columns.drop(["model", "prompt", "response"])]
        short = {name: name.partition(" ")[0] for name in named}
        if len(set(short.values())) < len(named):
            return self
        tables = ("with_labels", "between_scorers", "counted")
        columns = ("scorer", "first", "second", "reading")
        return replace(
            self,
            disagreeing=self.disagreeing.rename(columns=short),
            **{
                name: table.replace({one: short for one in columns if one in table})
                for name in tables
                for table in [getattr(self, name)]
            },
        )

    def _text(self, rows: int, width: int) -> str:
        parts = []
        if self.labelled_by:
            parts += [f"Labels: {self.labelled_by}"]
        if len(self.counted):
            parts += ["Answers that are not simply refused or answered"]
            parts += [self.counted.to_string(index=False), ""]
        if len(self.between_people):
            parts += ["Agreement of people with each other (precision and recall: the first)"]
            parts += [*_each_way(self.between_people, ("first", "second", "model")), ""]
        if self.people is not None:
            parts += [f"Agreement of the annotators (Fleiss' kappa): {self.people}", ""]
        if len(self.with_labels):
            left = f"; {self.left_out} answers left out" if self.left_out else ""
            parts += [f"Agreement with labels (refusal against answer{left}), worst model first"]
            parts += [*_each_way(self.with_labels, ("scorer", "model")), ""]
        if len(self.between_scorers):
            parts += ["Agreement between scorers (precision and recall: the first as truth)"]
            parts += [_printed(self.between_scorers, ("first", "second", "model")), ""]
        return "\n".join([*parts, *self._rows_to_read(rows, width)])

    def write(self, folder: str | Path) -> None:
        """Write every table as CSV into ``folder``; each file is written whole or not at all."""
        from interp.store import write_csv

        for name in ("with_labels", "between_scorers", "between_people", "counted", "disagreeing"):
            table = getattr(self, name)
            if len(table.columns):
                write_csv(Path(folder) / f"{name}.csv", table)

    def _rows_to_read(self, rows: int, width: int) -> list[str]:
        parts = [f"{len(self.disagreeing)} answers on which the readings differ"]
        readings = [c for c in self.disagreeing if c not in ("model", "prompt", "response")]
        for row in self.disagreeing.head(rows).to_dict("records"):
            said = ", ".join(f"{c} {row[c]:g}" for c in readings if row[c] == row[c])
            parts += [f"- {row['model']}; {said}"]
            parts += [f"    {_short(row[c], width)}" for c in ("prompt", "response")]
        if len(self.disagreeing) > rows:
            parts += [f"... and {len(self.disagreeing) - rows} more"]
        return parts


def compare_with_labels(
    *sides: str | Path,
    label: str | None = None,
    model: str = "model",
    device: str | None = None,
    progress: Progress | None = None,
) -> AgreementTables:
    """Agreement of scorers with labels and with each other.

    Args:
        sides, label, model, device: as in :func:`analyses.recorded.readings.read_sides`. If a judge
            gave no verdict on an answer, only the other scorers are compared on it.

    Raises:
        InputError: a side is unusable, the files have different answers, or there is nothing to
            compare.
    """
    return agreement_of(
        read_sides(*sides, label=label, model=model, device=device, progress=progress)
    )


def agreement_of(readings: Readings) -> AgreementTables:
    """The tables of agreement of readings."""
    import pandas as pd

    from unlearning.scoring import between, disagreeing, each_way

    table, scorers = readings.table, list(readings.scorers)
    labelled = "label" in table
    with_labels = between_people = pd.DataFrame()
    if labelled and scorers:
        found = {name: each_way(table, "label", name, "model", "unit") for name in scorers}
        with_labels = pd.concat(found, names=["scorer"]).reset_index("scorer")
        with_labels = with_labels.reset_index(drop=True)
    if readings.annotators:
        between_people = _between_people(table[table["label"].notna()], readings.annotators)
    said = (["label"] if labelled else []) + scorers
    differ = disagreeing(table, said)[["model", "prompt", "response", *said]]
    spread = differ[said].max(axis=1) - differ[said].min(axis=1)
    differ = differ.loc[spread.sort_values(ascending=False, kind="stable").index]
    return AgreementTables(
        with_labels,
        between(table, scorers, "model", "unit"),
        between_people,
        _people(readings),
        differ.reset_index(drop=True),
        _counted(readings),
        int((table["label"].isna() | (table["label"] == 0.5)).sum()) if labelled else 0,
        readings.labelled_by,
    )


def _between_people(table: pd.DataFrame, annotators: Sequence[str]) -> pd.DataFrame:
    """Agreement of each pair of annotators, on the answers that scorers are compared on."""
    import pandas as pd

    from unlearning.scoring import COUNTED, between

    parts = []
    for way in COUNTED:
        rows = table[table["label"] != 0.5] if way == "left out" else table
        # The final label decides what is left out, not the first of two annotators.
        counted = "answer" if way == "left out" else way
        found = between(rows, annotators, "model", "unit", partial=counted)
        parts.append(found.assign(partial=way))
    return pd.concat(parts, ignore_index=True)


def _people(readings: Readings) -> Interval | None:
    import numpy as np

    from unlearning.scoring import fleiss_kappa

    known = [place for place, vote in enumerate(readings.votes) if vote is not None]
    if not known:
        return None
    votes = np.array([readings.votes[place] for place in known])
    return fleiss_kappa(votes, 3, readings.table["unit"].to_numpy()[known])


def _counted(readings: Readings) -> pd.DataFrame:
    """How many answers of each special class every reading has, and how they count."""
    import pandas as pd

    rows = []
    for name in readings.classes:
        classes = readings.classes[name]
        read = readings.table[name]
        special = classes.fillna("none")[~classes.isin(("full_refusal", "answer"))]
        for text_class, number in special.value_counts().items():
            value = read[special.index[special == text_class][0]]
            counts_as = COUNTS_AS.get(value, "left out")
            rows.append((name, text_class, int(number), counts_as))
    return pd.DataFrame(rows, columns=["reading", "class", "n", "counts_as"])


def _each_way(table: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """The measures with partial refusals left out, and kappa in every way if it differs."""
    plain = table[table["partial"] == "left out"]
    if plain.empty:  # every label is partial
        plain = table[table["partial"] == "answer"]
    lines = [_printed(plain, names)]
    values = [table.loc[table["partial"] == way, "kappa"].tolist() for way in KAPPAS]
    if any(one != values[0] for one in values[1:]):
        kappas = table.assign(shown=_intervals(table, "kappa"))
        kappas = kappas.pivot(index=list(names), columns="partial", values="shown").reset_index()
        in_order = plain[list(names)].merge(kappas, how="left").rename(columns=KAPPAS)
        shown = [*names, *(title for title in KAPPAS.values() if title in in_order)]
        lines += ["", "Kappa, with partial refusals left out, as refusals, as answers, as a class"]
        lines += [in_order[shown].to_string(index=False)]
    return lines


def _printed(table: pd.DataFrame, names: Sequence[str]) -> str:
    from unlearning.scoring import MEASURES

    shown = table[[*names, "n"]].copy()
    for measure in MEASURES:
        shown[measure] = _intervals(table, measure)
    return shown.to_string(index=False)


def _intervals(table: pd.DataFrame, measure: str) -> list[str]:
    from unlearning.scoring import Interval

    bounds = table[[measure, f"{measure}_low", f"{measure}_high"]].itertuples(index=False)
    return [str(Interval(*values)) for values in bounds]


def _short(text: str, width: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
