"""Sampled refusals, where a model's greedy answers hold too few of them.

A model that refuses one harmful prompt in seven has too few greedy refusals to train on. Its
samples hold more. Every training prompt of the domain is asked again, round by round, until there
are enough different (prompt, refusal) pairs. Sample k of a prompt depends on the seed, the prompt
and k alone, so more rounds only add rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.deflections.phase_one import FEWEST_DEFLECTIONS, respond
from unlearning.scoring import Scorer


@dataclass(frozen=True)
class Sampling:
    """How refusals are sampled where greedy ones are too few.

    Attributes:
        samples: answers to each training prompt at most; 0 samples none.
        temperature: divides the logits; more than 0.
        seed: of the samples.

    Raises:
        InputError: a number is out of range.
    """

    samples: int = 8
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.samples < 0:
            raise InputError(f"samples is {self.samples}; expected 0 or more")
        if self.samples and not self.temperature > 0:
            raise InputError(
                f"temperature is {self.temperature:g}, where all samples of a prompt are equal; "
                "expected more than 0, or 0 samples"
            )

    @property
    def line(self) -> str:
        """The sampling in words, for a plan."""
        if not self.samples:
            return "greedy refusals only"
        return (
            f"greedy refusals; where a domain has fewer than {FEWEST_DEFLECTIONS}, at most "
            f"{self.samples} more answers to each of its training prompts, sampled at temperature "
            f"{self.temperature:g}"
        )


def with_sampled_refusals(
    lm: LanguageModel,
    asked: pd.DataFrame,
    refused: pd.DataFrame,
    scorer: Scorer,
    sampling: Sampling,
    *,
    fewest: int = FEWEST_DEFLECTIONS,
    **settings: Any,
) -> pd.DataFrame:
    """``refused`` and sampled refusals of the same domain; rounds end with ``fewest`` rows.

    Args:
        lm: the base model.
        asked: harmful training prompts of one domain (``id``, ``prompt``, …).
        refused: the rows of :func:`respond` with its greedy refusals of them.
        scorer: only answers that it calls refusals are kept.
        sampling: number, temperature and seed of the samples.
        fewest: number of rows that suffices.
        settings: ``max_new_tokens, batch_size, progress, log`` of
            :func:`unlearning.generation.generate`; the key of ``log`` holds the temperature and
            the seed.

    Returns:
        Rows as of :func:`respond`, with a column ``prompt_id``. A sampled row's ``id`` is the
        prompt's with the number of the sample. No two rows have the same prompt and the same ids or
        the same text.
    """
    found = distinct(refused.assign(prompt_id=refused["id"]))
    for number in range(sampling.samples):
        if len(found) >= fewest or asked.empty:
            break
        said = respond(
            lm,
            asked,
            scorer,
            temperature=sampling.temperature,
            seed=sampling.seed,
            first_sample=number,
            **settings,
        )
        names = said["id"].astype(str) + f"-sample{number}"
        said = said.assign(prompt_id=said["id"], id=names)
        found = distinct(pd.concat([found, said[said["class"] == "refusal"]], ignore_index=True))
    return found


def distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """The first of the rows that have a prompt and its response, as ids or as text, in common."""
    keys: list[Any] = [tuple(ids) for ids in rows["ids"]]
    rows = rows.assign(as_ids=keys)
    for said in ("as_ids", "response"):
        rows = rows.drop_duplicates(["prompt", said])
    return rows.drop(columns="as_ids").reset_index(drop=True)
