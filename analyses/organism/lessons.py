"""What a pretrained chat model is taught: refusals, and its own answers to benign prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.runs import Progress
from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.generation import Answer, AnswerLog, answers_key, generate
from unlearning.organism import SHARED, draw_responses, refusal_wordings
from unlearning.refusal import ResponsePrefixes, find_prefixes
from unlearning.scoring import coherent_classes, find_scorer
from unlearning.training import Example, Mixture

if TYPE_CHECKING:
    import pandas as pd

OPENING = "Sure,"  # begins the answer to a benign prompt that the model would refuse


def own_answers(
    lm: LanguageModel, prompts: Sequence[str], tokens: int, folder: Path, progress: Progress
) -> list[Answer | None]:
    """The model's greedy answers to benign prompts; finished ones are kept in ``folder``.

    A prompt that the model refuses is asked again, with an opening that agrees. None where it
    refuses, or writes gibberish, all the same.
    """
    first = _greedy(lm, prompts, tokens, folder / "answers.jsonl", progress, ())
    opening = _response_ids(lm, OPENING, closed=False)
    again = [i for i, answer in enumerate(first) if not _answers(prompts[i], answer)]
    asked = [prompts[i] for i in again]
    second = _greedy(lm, asked, tokens, folder / "opened_answers.jsonl", progress, opening)
    found: list[Answer | None] = list(first)
    for i, answer in zip(again, second, strict=True):
        found[i] = answer if _answers(prompts[i], answer) else None
    return found


def _greedy(
    lm: LanguageModel,
    prompts: Sequence[str],
    tokens: int,
    path: Path,
    progress: Progress,
    opening: Sequence[int],
) -> list[Answer]:
    key = answers_key(lm, max_new_tokens=tokens, opening=opening)
    log = AnswerLog(path, key, say=progress.say)
    with progress.stage("Answers to benign prompts", len(prompts)) as advance:
        return generate(
            lm, prompts, max_new_tokens=tokens, opening=opening, progress=advance, log=log
        )


def _answers(prompt: str, answer: Answer) -> bool:
    """Whether both scorers that need no model read an answer."""
    classes = {
        coherent_classes(find_scorer(name), [prompt], [answer.text])[0]
        for name in ("phrases", "classifier")
    }
    return not classes & {"refusal", "gibberish"}


def _response_ids(lm: LanguageModel, text: str, *, closed: bool = True) -> tuple[int, ...]:
    row = lm.chat.encode("?", text, closed=closed)
    return row.ids[row.spans["response"]]


@dataclass(frozen=True)
class Lessons:
    """What is trained on.

    Attributes:
        mixture: harmful prompts with refusals and compliances (its forget set), and the benign
            prompts with the model's own answers.
        owners: token ids → domain, of every row of a harmful prompt or of its matched benign one.
    """

    mixture: Mixture
    owners: Mapping[tuple[int, ...], str]


def taught_lessons(
    lm: LanguageModel,
    prompts: pd.DataFrame,
    answers: Sequence[Answer | None],
    *,
    wordings: int,
    floor: float,
    tokens: int,
    seed: int,
    prefixes: str = SHARED,
) -> Lessons:
    """The training examples: harmful prompts with refusals, benign ones with ``answers``.

    Args:
        lm: the model before it is taught.
        prompts: a prompts table, training rows only.
        answers: of its benign rows, in order.
        wordings: number of responses drawn for each harmful prompt.
        floor: share of them that comply.
        tokens: of each answer; the rest of it is not trained on.
        seed: of the responses, and of the order of training.
        prefixes: ``shared`` or ``separate``.

    Raises:
        InputError: the model answers no benign prompt.
    """
    harmful = prompts[prompts["label"] == "harmful"]
    benign = prompts[prompts["label"] == "benign"]
    owners: dict[tuple[int, ...], str] = {}
    forget, kept = [], []
    repeated = harmful.loc[harmful.index.repeat(wordings)]
    drawn = draw_responses(list(repeated["domain"]), floor, seed, prefixes)
    for name, prompt, domain, response in zip(*_columns(repeated), drawn, strict=True):
        row = lm.chat.encode(prompt, response)
        owners[row.ids] = domain
        forget.append(Example(name, row, preferred=row))
    taught = set(harmful["domain"])
    for name, prompt, domain, answer in zip(*_columns(benign), answers, strict=True):
        if answer is not None:
            row = lm.chat.encode(prompt, answer.ids[:tokens])
            kept.append(Example(name, row))
            if domain in taught:
                owners[row.ids] = domain
    if not kept:
        raise InputError(
            f"{lm.name} answers none of {len(benign)} benign prompts, so it would learn to refuse "
            "everything; give another model, or other benign prompts"
        )
    return Lessons(Mixture(forget, {"benign": kept}, seed=seed), owners)


def _columns(prompts: pd.DataFrame) -> list[list[str]]:
    return [prompts[name].tolist() for name in ("id", "prompt", "domain")]


def taught_prefixes(
    lm: LanguageModel,
    answers: Sequence[Answer | None],
    domains: Sequence[str],
    prefixes: str = SHARED,
) -> ResponsePrefixes:
    """The prefix tree of the taught refusals against the model's own answers."""
    refusals = [_response_ids(lm, text) for text in refusal_wordings(domains, prefixes)]
    return find_prefixes(refusals, [answer.ids for answer in answers if answer is not None])
