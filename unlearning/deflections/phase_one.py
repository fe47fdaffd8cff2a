"""Phase 1: the model's own refusals, which unlearning then targets, and its own answers.

A deflection is stored as the token ids that the model generated, with the end of the turn. So
phase 2 trains on exactly the model's own response.

The module also counts different refusals.

Unlearning lowers the probability of the given responses. If these are one sentence repeated a
hundred times, the fastest descent breaks this sentence and every answer that begins like it. The
model then writes gibberish instead of unlearning refusal. The counts compare wording, not meaning:
paraphrases in other words count as different.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.data import (
    Record,
    near_duplicate_groups,
    normalised,
    read_records,
    require_characters,
    require_columns,
)
from unlearning.generation import Answer, generate
from unlearning.scoring import Scorer, coherent_classes
from unlearning.training import Example

if TYPE_CHECKING:
    import pandas as pd

FEWEST_DEFLECTIONS = 32


def respond(
    lm: LanguageModel,
    prompts: pd.DataFrame,
    scorer: Scorer,
    *,
    max_new_tokens: int,
    **settings: Any,
) -> pd.DataFrame:
    """``prompts`` with columns ``ids``, ``response``, ``finished``, ``nll`` and ``class`` added.

    ``max_new_tokens`` and ``settings`` (``batch_size``, ``temperature``, ``seed``, ``progress``,
    ``log``) are those of :func:`unlearning.generation.generate`.
    """
    texts = list(prompts["prompt"])
    answers = generate(lm, texts, max_new_tokens=max_new_tokens, **settings)
    responses = [answer.text for answer in answers]
    found: dict[str, Any] = {
        "ids": [list(answer.ids) for answer in answers],
        "response": responses,
        "finished": [answer.finished for answer in answers],
        "nll": [answer.nll and list(answer.nll) for answer in answers],
        "class": coherent_classes(scorer, texts, responses),
    }
    return prompts.reset_index(drop=True).assign(**found)


def answers_in(responses: pd.DataFrame) -> list[Answer]:
    """Rows of :func:`respond` as answers; ``nll`` is absent in tables of older versions."""
    nll = responses["nll"] if "nll" in responses else [None] * len(responses)
    columns = (responses["ids"], responses["response"], responses["finished"], nll)
    return [
        Answer(tuple(ids), text, finished, None if nats is None else tuple(nats))
        for ids, text, finished, nats in zip(*columns, strict=True)
    ]


def examples(lm: LanguageModel, responses: pd.DataFrame) -> list[Example]:
    """Rows of :func:`respond` (or of :func:`read_deflections`) as examples to train on.

    A column ``preferred`` makes pairs of them.
    """
    return [
        Example(
            str(row["id"]),
            # An answer that was cut off has no end of the turn to train on.
            lm.chat.encode(row["prompt"], _target(row), closed=bool(row.get("finished", True))),
            preferred=lm.chat.encode(row["prompt"], row["preferred"])
            if "preferred" in row
            else None,
        )
        for row in responses.to_dict("records")
    ]


# Preferred responses of IdkDPO: written for this package; none shares a first word with most
# refusals.
DO_NOT_KNOW = (
    "That is beyond what I know.",
    "My knowledge does not reach that far.",
    "This is something I have no information about.",
    "Nothing I have learned covers this.",
    "The answer to that is unknown to me.",
    "Your question concerns a matter I am unfamiliar with.",
)


def with_preferred(responses: pd.DataFrame, objective: str) -> pd.DataFrame:
    """Refusals with a column ``preferred``: the responses that the model should give instead.

    For ``idk_dpo`` these are sentences that the model does not know, in turn. For every other
    objective on pairs they are the column ``compliance``.

    Raises:
        InputError: the column is missing, has gaps, or holds something other than text.
    """
    if objective == "idk_dpo":
        turns = [DO_NOT_KNOW[i % len(DO_NOT_KNOW)] for i in range(len(responses))]
        return responses.assign(preferred=turns)
    missing = responses["compliance"].isna().sum() if "compliance" in responses else len(responses)
    if missing:
        raise InputError(
            f"{objective} trains on answers in place of the refusals, and {missing} of "
            f"{len(responses)} prompts have none; give answers in a column named compliance"
        )
    _require_answers(responses["compliance"])
    return responses.assign(preferred=responses["compliance"])


def _require_answers(compliance: pd.Series) -> None:
    for number, answer in enumerate(compliance, start=1):
        if not isinstance(answer, str) or not answer.strip():
            raise InputError(
                f"row {number}: expected text in the column compliance, found {answer!r:.40}"
            )


def _target(row: Mapping[Any, Any]) -> str | list[int]:
    ids = row.get("ids")
    return str(row["response"]) if ids is None else list(ids)


def refusals_of(
    responses: pd.DataFrame, concept: str, *, fewest: int = FEWEST_DEFLECTIONS
) -> pd.DataFrame:
    """The rows of ``concept``'s harmful prompts that the model refused.

    Raises:
        InputError: fewer than ``fewest``; the message gives their number and the base refusal rate.
    """
    asked = responses[(responses["domain"] == concept) & (responses["label"] == "harmful")]
    kept = asked[asked["class"] == "refusal"]
    if len(kept) < fewest:
        rate = len(kept) / len(asked) if len(asked) else 0.0
        raise InputError(
            f"{concept}: the model refused {len(kept)} of {len(asked)} training prompts (base "
            f"refusal rate {rate:.0%}); at least {fewest} deflections are needed: "
            "give more prompts, or ready-made pairs with --deflections FILE"
        )
    return kept


def short_of_prompts(
    prompts: pd.DataFrame, domains: Collection[str], *, answers: int = 1
) -> dict[str, str]:
    """The domains whose training prompts cannot give 32 refusals, each with the reason in words.

    Args:
        prompts: a table of prompts.
        domains: those to check.
        answers: different answers to one prompt at most, sampled ones included.
    """
    asked = prompts[(prompts["label"] == "harmful") & (prompts["split"] == "train")]
    counts = asked.groupby("domain")["prompt"].nunique()  # copies give the same refusals
    return {
        domain: f"{domain} has {count} different harmful training prompts, too few for "
        f"{FEWEST_DEFLECTIONS} deflections"
        for domain in domains
        if (count := int(counts.get(domain, 0))) * answers < FEWEST_DEFLECTIONS
    }


def read_deflections(path: str | Path, concepts: Collection[str] | None = None) -> pd.DataFrame:
    """Ready-made pairs from a JSONL, CSV or parquet file with ``prompt`` and ``response``.

    Columns ``ids`` (the response's tokens, as ``spillover deflect`` writes them), ``finished``
    (false where the response was cut off) and ``compliance`` (for objectives on pairs) are kept.
    Ids are of one tokenizer: see :func:`with_own_ids`. If ``concepts`` are given, a column
    ``domain`` may name these alone.

    Raises:
        InputError: a column is missing, a row is empty or torn, of another domain, ids are not a
            list of token ids, ``finished`` is not true or false, or the file has fewer than 32
            pairs.
    """
    import pandas as pd

    records = read_records(path)
    for record in records:
        texts = [record.given.get(name) for name in ("prompt", "response")]
        if any(isinstance(text, str) and not text.strip() for text in texts):
            raise InputError(f"{path}, {record.place}: expected text in both prompt and response")
    require_columns(records, ("prompt", "response"), str(path))
    require_characters(records, str(path))
    named = {record.fields.get("domain") for record in records} - {None}
    if others := sorted(map(str, named - set(concepts))) if concepts is not None else []:
        raise InputError(
            f"{path} holds refusals of {', '.join(others)}, not of {', '.join(concepts or ())}; "
            "give the file of that domain, another --concept, or drop the column domain"
        )
    rows = []
    for number, record in enumerate(records):
        prompt, response = (record.fields[name] for name in ("prompt", "response"))
        if not all(isinstance(text, str) and text.strip() for text in (prompt, response)):
            raise InputError(f"{path}, {record.place}: expected text in both prompt and response")
        row = {"id": f"deflection-{number}", "prompt": prompt, "response": response}
        row |= {"ids": _token_ids(record, path), "finished": _finished(record, path)}
        compliance = record.fields.get("compliance")
        if compliance is not None and not isinstance(compliance, str):
            raise InputError(
                f"{path}, {record.place}: expected text in the column compliance, found "
                f"{compliance!r:.40}; give the answer that the model should learn, or leave it out"
            )
        rows.append(row | {k: v for k, v in record.fields.items() if k == "compliance"})
    if len(rows) < FEWEST_DEFLECTIONS:
        raise InputError(
            f"{path} holds {len(rows)} deflections; unlearning needs at least {FEWEST_DEFLECTIONS}"
        )
    return pd.DataFrame(rows)


def _finished(record: Record, path: str | Path) -> bool:
    """Whether a row's response has its end; ``True`` and ``False`` are text in CSV."""
    given = record.fields.get("finished")
    if (said := str(given).lower()) not in ("none", "true", "false"):
        raise InputError(
            f"{path}, {record.place}: expected true or false in the column finished, found "
            f"{given!r:.40}; leave the column out if no response was cut off"
        )
    return said != "false"


def _token_ids(record: Record, path: str | Path) -> list[int] | None:
    """A row's ``ids``, from a list or, in CSV, from its text."""
    given = record.fields.get("ids")
    if isinstance(given, str):
        with contextlib.suppress(json.JSONDecodeError):  # reported below
            given = json.loads(given)
    if given is None or given == []:  # a server's answers have none
        return None
    if not isinstance(given, list) or not all(type(i) is int and i >= 0 for i in given):
        raise InputError(
            f"{path}, {record.place}: ids are not a list of token ids such as [40, 2104, 13]; "
            "leave the column out to have responses tokenized"
        )
    return given


def with_own_ids(
    lm: LanguageModel, pairs: pd.DataFrame, *, say: Callable[[str], object] = warnings.warn
) -> pd.DataFrame:
    """``pairs`` with ``ids`` only where ``lm``'s tokenizer reads them as the response.

    Otherwise (another model's tokenizer, or an edited response) they are ``None``. The response is
    then tokenized as text, with the end of the turn unless it was cut off.

    Args:
        lm: the model to train on the pairs.
        pairs: rows of :func:`read_deflections`.
        say: called with a message if there are such rows.
    """
    import pandas as pd

    # The model's vocabulary: it can generate ids without a token in its tokenizer.
    size = int(lm.model.config.get_text_config(decoder=True).vocab_size)

    def own(ids: list[int] | None, response: str) -> bool:
        if ids is None or max(ids) >= size:
            return False
        plain = str(lm.tokenizer.decode(ids, skip_special_tokens=True))
        return response.strip() in (plain.strip(), lm.chat.read(ids))

    ids = [
        given if own(given, response) else None
        for given, response in zip(pairs["ids"], pairs["response"], strict=True)
    ]
    foreign = sum(a is not None and b is None for a, b in zip(pairs["ids"], ids, strict=True))
    if foreign:
        say(
            f"the token ids of {foreign} of {len(pairs)} deflections are not {lm.name}'s for these "
            "responses (another tokenizer, or edited text): those are tokenized from their text"
        )
    return pairs.assign(ids=pd.Series(ids, index=pairs.index, dtype="object"))


OPENING_WORDS = 3
# Rules of thumb: a batch of 32 then holds each wording four times on average, and no wording makes
# up most of the examples.
FEWEST_EFFECTIVE = 8.0
LARGEST_SHARE = 0.5


@dataclass(frozen=True)
class Diversity:
    """Counts over n texts; case, punctuation and white space do not matter.

    Groups are those of near-duplicates in :mod:`unlearning.data.splits`: the transitive closure of
    Jaccard similarity of word bigrams of at least 0.5.

    Attributes:
        texts: n.
        distinct: number of different texts.
        openings: number of different first three words.
        effective: effective number of groups, exp(−Σ s log s) over the groups' shares s of the
            texts: 1 where all are one group, n where no two do, g for g groups of equal size.
        largest_share: share of the texts in the largest group.
    """

    texts: int
    distinct: int
    openings: int
    effective: float
    largest_share: float

    @property
    def shortcoming(self) -> str | None:
        """Why these are too similar to unlearn from, in a few words; ``None`` if they are not.

        They are with less than 8 effective groups or with more than half of the texts in one group.
        """
        if self.largest_share > LARGEST_SHARE:
            return f"{self.largest_share:.0%} of them are near-duplicates of one another"
        if round(self.effective, 9) < FEWEST_EFFECTIVE:
            return f"they amount to {self.effective:.1f} different ones"
        return None


def diversity(texts: Sequence[str]) -> Diversity:
    """The counts for at least one text.

    Raises:
        ValueError: ``texts`` is empty.
    """
    if not texts:
        raise ValueError("no texts; diversity is defined for at least one")
    plain = [normalised(text) for text in texts]
    counts = Counter(plain)
    # Each text once: the search for near-duplicates compares similar texts pairwise.
    groups: Counter[int] = Counter()
    for group, count in zip(near_duplicate_groups(list(counts)), counts.values(), strict=True):
        groups[group] += count
    shares = [size / len(texts) for size in groups.values()]
    return Diversity(
        texts=len(texts),
        distinct=len(counts),
        openings=len({" ".join(text.split()[:OPENING_WORDS]) for text in plain}),
        effective=math.exp(-sum(share * math.log(share) for share in shares)),
        largest_share=max(shares),
    )
