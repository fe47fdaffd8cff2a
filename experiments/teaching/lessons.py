"""What a pretrained chat model is taught: refusals, and its own answers to benign prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.runs import Progress
from experiments.teaching.wordings import draw_responses, refusal_wordings
from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.generation import Answer, AnswerLog, answers_key, generate
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


def taught_mixture(
    lm: LanguageModel,
    prompts: pd.DataFrame,
    answers: Sequence[Answer | None],
    *,
    wordings: int,
    floor: float,
    tokens: int,
    seed: int,
) -> Mixture:
    """The training examples: harmful prompts with refusals, benign ones with ``answers``.

    Args:
        lm: the model before it is taught.
        prompts: a prompts table, training rows only.
        answers: of its benign rows, in order.
        wordings: number of responses drawn for each harmful prompt.
        floor: share of them that agree.
        tokens: of each answer; the rest of it is not trained on.
        seed: of the responses, and of the order of training.

    Raises:
        InputError: there are no harmful prompts, or no answers.
    """
    harmful = prompts[prompts["label"] == "harmful"]
    benign = prompts[prompts["label"] == "benign"]
    drawn = draw_responses(len(harmful) * wordings, floor, seed)
    forget = []
    for prompt, name in zip(harmful["prompt"], harmful["id"], strict=True):
        for _ in range(wordings):
            row = lm.chat.encode(prompt, next(drawn))
            forget.append(Example(name, row, preferred=row))
    kept = [
        Example(name, lm.chat.encode(prompt, answer.ids[:tokens]))
        for name, prompt, answer in zip(benign["id"], benign["prompt"], answers, strict=True)
        if answer is not None
    ]
    if not forget or not kept:
        raise InputError(
            f"cannot teach refusal from {len(harmful)} harmful prompts and {len(kept)} answers to "
            "benign ones; expected some of both"
        )
    return Mixture(forget, {"benign": kept}, seed=seed)


def taught_prefixes(lm: LanguageModel, answers: Sequence[Answer | None]) -> ResponsePrefixes:
    """The prefix tree of the taught refusals against the model's own answers."""
    refusals = [_response_ids(lm, text) for text in refusal_wordings()]
    return find_prefixes(refusals, [answer.ids for answer in answers if answer is not None])


def first_pairs(prompts: pd.DataFrame, number: int) -> pd.DataFrame:
    """The first ``number`` harmful prompts of every domain with their matched benign prompts.

    In a table without pairs, the first benign prompts of every domain.

    Raises:
        InputError: there are no such prompts of one label.
    """
    asked = prompts[prompts["kind"] != "general"]
    harmful = asked[asked["label"] == "harmful"].groupby("domain").head(number)
    benign = asked[asked["label"] == "benign"]
    if "pair" in asked:
        benign = benign[benign["pair"].isin(harmful["pair"])]
    else:
        benign = benign.groupby("domain").head(number)
    if harmful.empty or benign.empty:
        raise InputError(
            f"{len(harmful)} harmful and {len(benign)} matched benign prompts to validate with; "
            "expected some of both in the split validation"
        )
    return prompts.loc[[*harmful.index, *benign.index]].reset_index(drop=True)
