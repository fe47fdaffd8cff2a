"""The data set of phase 1, and checks of its fitness for unlearning.

``deflections.jsonl`` has a row for every refusal kept: ``id, prompt, response, ids`` (the tokens as
the model generated them, end of turn included; empty if a server answered), ``finished,
domain, prompt_id, sample``. ``--deflections`` of study and unlearn takes it. ``manifest.json`` in
the same folder gives its origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from unlearning.data import write_records
from unlearning.deflections import FEWEST_DEFLECTIONS, Diversity, diversity
from unlearning.scoring import CLASSES

DEFLECTIONS, MANIFEST = "deflections.jsonl", "manifest.json"
MORE = (
    "give more prompts with --prompts, or several answers to each with --temperature 1 --samples 4"
)


@dataclass(frozen=True)
class Deflected:
    """The outcome of phase 1.

    Attributes:
        path: the data set.
        concept: the domain.
        rows: refusals in the data set; equal samples of one prompt count once.
        repeats: refusals left out as equal samples.
        prompts: prompts asked, and ``refused_prompts`` those refused at least once.
        classes: answers by class.
        unfinished: refusals that the limit on new tokens cut off.
        diversity: of the data set's responses.
    """

    path: Path
    concept: str
    rows: int
    repeats: int
    prompts: int
    refused_prompts: int
    classes: Mapping[str, int]
    unfinished: int
    diversity: Diversity

    @property
    def counts(self) -> dict[str, Any]:
        """All counts by name, for the manifest."""
        return {
            "prompts": self.prompts,
            "refused_prompts": self.refused_prompts,
            "deflections": self.rows,
            "repeats_left_out": self.repeats,
            "unfinished": self.unfinished,
            "classes": dict(self.classes),
        }

    @property
    def base_refusal_rate(self) -> float:
        """Share of all answers that are refusals."""
        return self.classes["refusal"] / sum(self.classes.values())

    def warnings(self) -> list[str]:
        """Possible problems of the data set, each with a remedy."""
        found = []
        if self.rows < FEWEST_DEFLECTIONS:
            found.append(
                f"unlearning needs at least {FEWEST_DEFLECTIONS} deflections, found "
                f"{self.rows}; {MORE}"
            )
        if shortcoming := self.diversity.shortcoming:
            found.append(
                f"the refusals are nearly the same ({shortcoming}); unlearning then lowers this "
                "wording and similar beginnings before refusal itself, and the model "
                "may become degenerate: sample them at --temperature 1 with more --samples, or "
                "give other prompts"
            )
        if 2 * self.unfinished > self.rows:
            found.append(
                f"{self.unfinished} of {self.rows} refusals were cut off, so training does "
                "not see their ends: raise --max-new-tokens"
            )
        return found

    def text(self) -> str:
        """A few lines for the terminal."""
        said, n = self.diversity, sum(self.classes.values())
        named = ", ".join(f"{count} {name}" for name, count in self.classes.items() if count)
        left_out = f"; {self.repeats} repeats of one prompt's answer left out" * bool(self.repeats)
        lines = [
            f"{self.path}: {self.rows} refusals of {self.refused_prompts} of {self.prompts} "
            f"{self.concept} prompts{left_out}",
            f"answers: {n} ({named}); base refusal rate {self.base_refusal_rate:.1%}",
            f"diversity: {said.distinct} different texts, {said.openings} openings, "
            f"{said.effective:.1f} effective wordings, {said.largest_share:.0%} in the largest "
            "group of near-duplicates",
        ]
        return "\n".join([*lines, *(f"warning: {one}" for one in self.warnings())])


def kept_refusals(rows: pd.DataFrame) -> pd.DataFrame:
    """Refusals among scored answers; equal samples of one prompt count once."""
    return rows[rows["class"] == "refusal"].drop_duplicates(["id", "response"])


def deflection_summary(
    path: Path, concept: str, rows: pd.DataFrame, kept: pd.DataFrame
) -> Deflected:
    """Counts over all answers ``rows`` and their refusals ``kept``, at least one."""
    classes = {name: int((rows["class"] == name).sum()) for name in CLASSES}
    return Deflected(
        path,
        concept,
        rows=len(kept),
        repeats=classes["refusal"] - len(kept),
        prompts=int(rows["id"].nunique()),
        refused_prompts=int(kept["id"].nunique()),
        classes=classes,
        unfinished=int((~kept["finished"]).sum()),
        diversity=diversity(list(kept["response"])),
    )


def write_deflections(path: Path, kept: pd.DataFrame) -> None:
    """Write the rows as JSONL, atomically."""
    columns = ["prompt", "response", "ids", "finished", "domain"]
    rows = (
        {"id": f"{row['id']}-{row['sample']}"}
        | {name: row[name] for name in columns}
        | {"prompt_id": row["id"], "sample": row["sample"]}
        for row in kept.to_dict("records")
    )
    write_records(rows, path)
