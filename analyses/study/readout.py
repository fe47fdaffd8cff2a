"""How a study reads refusal: by prefixes of the base model's answers, or by their text.

Prefixes are learned from training prompts on which two scorers agree, and used if the log-odds rank
the answers to validation prompts. Otherwise the study reads the text of generated answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.errors import InputError
from interp.store import read_json
from unlearning.refusal import (
    VALID_AUC,
    ResponsePrefixes,
    find_prefixes,
    log_odds_auc,
    shared_weights,
)
from unlearning.scoring import Panel, Probe, default_reader, find_scorer

if TYPE_CHECKING:
    from collections.abc import Callable

    from interp.model import Chat
    from unlearning.deflections import Sampling
    from unlearning.scoring import Scorer

# Increase this if the same answers can give another readout than before. A base model's stored
# readout of another version is learned again; arms whose prefixes stay the same are kept.
VERSION = 4
# With fewer different prompts in a class, sampled answers are added.
FEW = 16
# Fewer are strays: a model that refuses everything now and then samples something else.
FEWEST = 8
SIDES = {"refusal": "harmful", "answer": "benign"}  # class of the answer: label of the prompt


class NoLogOddsError(InputError):
    """The model's refusal is read from text, so it has no refusal log-odds."""


@dataclass(frozen=True)
class LearnedReadout:
    """What the base model's answers gave.

    Attributes:
        prefixes: R and C; None where refusal is read from text.
        why_not: why it is read from text; empty if it is not.
        aucs: by scorer: area under the ROC curve of the log-odds against the scorer's classes, on
            validation prompts; None where only one class occurs.
        shares: by class: the weighted share of each prefix in its class, on training prompts.
        covered: share of the answers to validation prompts that begin with a prefix.
        sampling: how answers were sampled to learn from; None if greedy answers sufficed.
    """

    prefixes: ResponsePrefixes | None
    why_not: str = ""
    aucs: Mapping[str, float | None] = field(default_factory=dict)
    shares: Mapping[str, list[float]] = field(default_factory=dict)
    covered: float | None = None
    sampling: Mapping[str, Any] | None = None

    def to_json(self, decode: Callable[[list[int]], Any]) -> dict[str, Any]:
        """``openers.json``: token ids, their text and shares."""
        ids = asdict(self.prefixes) if self.prefixes else {"refusal": (), "compliance": ()}
        texts = {name: [str(decode(list(one))) for one in side] for name, side in ids.items()}
        told = {"shares": dict(self.shares), "covered": self.covered, "aucs": dict(self.aucs)}
        made = {"why_not": self.why_not, "sampling": self.sampling, "version": VERSION}
        return {**ids, "text": texts, **told, **made}


def other_reader(scorer: Scorer) -> Scorer | None:
    """The scorer that checks ``scorer``; None for ground truth.

    It is the probe with the panel's reader, or with the default one. Where there is no reader, it
    is the classifier, or the phrase list for a classifier.
    """
    if scorer.name == "grammar":
        return None
    if isinstance(scorer, Panel) and scorer.reader:
        return Probe(scorer.reader)
    if not isinstance(scorer, Probe) and default_reader():
        return find_scorer("probe")
    return find_scorer("phrases" if scorer.name.startswith("classifier") else "classifier")


def with_other_reading(responses: pd.DataFrame, other: Scorer | None) -> pd.DataFrame:
    """``responses`` with a column ``other_class``: the classes of a second scorer, if any."""
    if other is None:
        return responses
    texts = list(responses["prompt"]), list(responses["response"])
    return responses.assign(other_class=other.classify(*texts))


def sides_of(responses: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Refusals of harmful and answers to benign training prompts, on which both scorers agree."""
    train = responses[responses["split"] == "train"]
    sides = [
        train[(train["class"] == name) & (train["label"] == label)] for name, label in SIDES.items()
    ]
    if "other_class" in responses:
        agreed = [side[side["class"] == side["other_class"]] for side in sides]
        # A scorer that knows another language than the model's agrees with nothing.
        if all(2 * len(one) >= len(side) for one, side in zip(agreed, sides, strict=True)):
            sides = agreed
    return sides[0], sides[1]


def prefixes_of(responses: pd.DataFrame) -> ResponsePrefixes:
    """R from refusals over all domains, C from answers to benign prompts; training prompts.

    Args:
        responses: rows of :func:`unlearning.deflections.respond`; a column ``other_class`` holds a
            second scorer's classes.

    Raises:
        InputError: there are too few refusals or answers, or nothing separates them.
    """
    refusals, answers = sides_of(responses)
    few = min(side["prompt"].nunique() for side in (refusals, answers))
    if 0 < few < FEWEST:
        raise InputError(
            f"the model gave {len(refusals)} refusals and {len(answers)} answers to benign "
            f"prompts; refusal prefixes are learned from at least {FEWEST} prompts of each"
        )
    return find_prefixes(
        list(refusals["ids"]),
        list(answers["ids"]),
        refusal_weights=_weights(refusals),
        answer_weights=_weights(answers),
    )


def missing_sides(responses: pd.DataFrame) -> list[str]:
    """The labels of prompts whose sampled answers are needed, because a class has few prompts."""
    sides = zip(SIDES.values(), sides_of(responses), strict=True)
    return [label for label, side in sides if side["prompt"].nunique() < FEW]


def checked_readout(
    prefixes: ResponsePrefixes, responses: pd.DataFrame, scores: pd.DataFrame, other: Scorer | None
) -> LearnedReadout:
    """The readout with its checks on validation prompts; by text if the log-odds are not valid.

    Args:
        prefixes: of the training prompts.
        responses: the base model's answers, with both scorers' classes.
        scores: ``prompt_id, split, margin, scorer`` of validation prompts.
        other: the second scorer.
    """
    held_out = scores[scores["split"] == "validation"]
    said = responses.drop_duplicates("id").set_index("id").loc[held_out["prompt_id"]]
    names = {"class": str(scores["scorer"].iloc[0])}
    if other is not None:
        names["other_class"] = other.name
    margin = held_out["margin"].to_numpy()
    aucs = {
        name: log_odds_auc(margin, (said[column] == "refusal").to_numpy(np.float64))
        for column, name in names.items()
    }
    refusals, answers = sides_of(responses)
    found = LearnedReadout(
        prefixes,
        aucs=aucs,
        shares={
            "refusal": _shares(prefixes.refusal, refusals),
            "compliance": _shares(prefixes.compliance, answers),
        },
        covered=float(np.mean([prefixes.of(ids) is not None for ids in said["ids"]]))
        if len(said)
        else None,
    )
    auc = next(iter(aucs.values()))
    if auc is None or auc >= VALID_AUC:
        return found
    why = (
        f"the refusal log-odds rank this model's answers with an AUC of {auc:.2f} (needed: "
        f"{VALID_AUC})"
    )
    return LearnedReadout(None, why, aucs)  # without the shares of a tree that is not used


def thought_note(chat: Chat, answers: Iterable[Sequence[int]]) -> str:
    """What to do where most answers (token ids) begin with a thought; empty where they do not."""
    enders = [chat.thought_ender(ids) for ids in answers]
    known = [ender for ender in enders if ender]
    if 2 * len(known) <= len(enders):
        return ""
    return (
        "; its answers begin with a thought, and so does this readout: with --response-prefix "
        f'"{max(set(known), key=known.count)}" the model answers at once, and the readout begins '
        "at the answer"
    )


def is_current(path: Path, sampling: Sampling) -> bool:
    """Whether the readout in a run's ``openers.json`` was learned as it would be now."""
    if not path.is_file():
        return False
    stored = read_json(path, ())
    learned_from = stored.get("sampling") or asdict(sampling)
    return stored.get("version") == VERSION and learned_from == asdict(sampling)


def read_prefixes(path: Path) -> ResponsePrefixes | None:
    """The prefixes in a run's ``openers.json``; None where refusal is read from text."""
    stored = read_json(path, ("refusal", "compliance"))
    if stored.get("why_not"):
        return None
    refusal, compliance = (
        tuple(tuple(prefix) for prefix in stored[name]) for name in ("refusal", "compliance")
    )
    return ResponsePrefixes(refusal, compliance)


def require_prefixes(base: Path, task: str) -> ResponsePrefixes:
    """The prefixes in the folder of a run's base model, for a task that needs log-odds.

    Raises:
        NoLogOddsError: refusal is read from text in this run.
    """
    path = base / "openers.json"
    prefixes = read_prefixes(path)
    if prefixes is None:
        raise NoLogOddsError(
            f"{task} needs refusal log-odds, and this run reads refusal from the text of answers: "
            f"{read_json(path, ())['why_not']}; its report has what needs none (refusal rates, "
            "directions, rotations), and study, matrix, contain, compare, predict and evaluate "
            "read the text"
        )
    return prefixes


def _weights(rows: pd.DataFrame) -> list[float]:
    return list(shared_weights(list(rows["domain"]), list(rows["prompt"])))


def _shares(leaves: tuple[tuple[int, ...], ...], rows: pd.DataFrame) -> list[float]:
    weights = np.array(_weights(rows))
    begins = np.array(
        [[tuple(ids[: len(leaf)]) == leaf for ids in rows["ids"]] for leaf in leaves]
    ).reshape(len(leaves), len(rows))
    return list(map(float, begins @ weights / weights.sum()))
