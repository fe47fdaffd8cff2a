"""Find prompts shared by several data sets, and evaluation prompts seen in training.

Near-duplicates are those of :mod:`unlearning.data.splits`: word bigrams at Jaccard similarity 0.5.
Paraphrases in other words are not found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unlearning.data.records import require_named
from unlearning.data.splits import (
    SIMILARITY,
    Shingles,
    jaccard,
    near_duplicate_groups,
    normalised,
    shingles,
)

if TYPE_CHECKING:
    import pandas as pd

LEAKS = (
    "similarity",
    "train_id",
    "train_source",
    "train_prompt",
    "evaluation_id",
    "evaluation_source",
    "evaluation_prompt",
)


@dataclass(frozen=True)
class Deduplicated:
    """The rows that are kept and the rows that are dropped.

    Attributes:
        prompts: the rows that are kept, in their order.
        dropped: columns ``id, source, kept_id, kept_source, reason``.
    """

    prompts: pd.DataFrame
    dropped: pd.DataFrame


def deduplicated(prompts: pd.DataFrame) -> Deduplicated:
    """Drop every row that repeats an earlier row; sort the table by preference first.

    A row repeats an earlier one in two cases: it has the same words (any data set, any label), or
    it is a near-duplicate with the same label in *another* data set. Near-duplicates within one
    data set stay, because data sets made from templates consist mostly of them. A harmful prompt
    and its near-identical matched benign prompt also stay.

    Raises:
        InputError: one of the columns ``id, prompt, label, source`` is missing.
    """
    import pandas as pd

    require_named(("id", "prompt", "label", "source"), prompts, "the prompts table")
    rows = prompts[["id", "source", "label"]].to_dict("records")
    texts = prompts["prompt"].tolist()
    words = [normalised(prompt) for prompt in texts]
    sets = [shingles(prompt) for prompt in texts]
    dropped: dict[int, tuple[int, str]] = {}
    for members in _groups(texts):
        kept: list[int] = []
        for i in members:
            for j in kept:
                if reason := _repeats(rows[i], rows[j], words[i] == words[j], sets[i], sets[j]):
                    dropped[i] = (j, reason)
                    break
            else:
                kept.append(i)
    gone = [
        (rows[i]["id"], rows[i]["source"], rows[j]["id"], rows[j]["source"], reason)
        for i, (j, reason) in sorted(dropped.items())
    ]
    left = prompts[[i not in dropped for i in range(len(prompts))]].reset_index(drop=True)
    columns = ["id", "source", "kept_id", "kept_source", "reason"]
    return Deduplicated(left, pd.DataFrame(gone, columns=columns).astype("str"))


def leaks(train: pd.DataFrame, evaluation: pd.DataFrame) -> pd.DataFrame:
    """Every pair of a training and an evaluation prompt that are near-duplicates.

    Returns:
        The most similar first; columns ``similarity`` (Jaccard, 0.5 to 1) and, of either prompt,
        ``id``, ``source`` (both null where the table has none) and ``prompt``, each after
        ``train_`` or ``evaluation_``. Empty where nothing leaks.

    Raises:
        InputError: a table has no column ``prompt``.
    """
    import pandas as pd

    require_named(("prompt",), train, "the training table")
    require_named(("prompt",), evaluation, "the evaluation table")
    texts = [*train["prompt"], *evaluation["prompt"]]
    sets = [shingles(prompt) for prompt in texts]
    rows = []
    for members in _groups(texts):
        seen = [i for i in members if i < len(train)]
        asked = [i - len(train) for i in members if i >= len(train)]
        for i in seen:
            for j in asked:
                similarity = jaccard(sets[i], sets[len(train) + j])
                if similarity >= SIMILARITY:
                    rows.append((similarity, *_named(train, i), *_named(evaluation, j)))
    table = pd.DataFrame(rows, columns=list(LEAKS)).astype({"similarity": float})
    return table.sort_values("similarity", ascending=False, kind="stable", ignore_index=True)


def _groups(texts: Sequence[str]) -> Iterator[list[int]]:
    """Positions of the texts of every group that has more than one, in their order."""
    members: dict[int, list[int]] = defaultdict(list)
    for position, group in enumerate(near_duplicate_groups(texts)):
        members[group].append(position)
    return (group for group in members.values() if len(group) > 1)


def _repeats(
    row: dict[Any, Any], kept: dict[Any, Any], same: bool, words: Shingles, kept_words: Shingles
) -> str | None:
    """Why the row is a repetition of one that is kept; None if it is not."""
    alike = row["label"] == kept["label"]
    if same:
        return "the same words" if alike else f"the same words, there {kept['label']}"
    if alike and row["source"] != kept["source"] and jaccard(words, kept_words) >= SIMILARITY:
        return "near-duplicate"
    return None


def _named(table: pd.DataFrame, position: int) -> tuple[Any, Any, Any]:
    row = table.iloc[position]
    return row.get("id"), row.get("source"), row["prompt"]
