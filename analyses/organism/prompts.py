"""The prompts that a model is taught with, and those that its curve reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.errors import InputError, expected
from unlearning.data import (
    DOMAINS,
    as_prompts,
    matched_pairs,
    near_duplicate_groups,
    present_domains,
    read_prompts,
)

if TYPE_CHECKING:
    import pandas as pd

# Harmful training prompts of a domain, and prompts of one label in its validation split.
FEWEST_TAUGHT, FEWEST_UNSEEN = 8, 2


def taught_prompts(
    file: str | None = None, *, built_in: bool = True, concepts: Sequence[str] = ()
) -> pd.DataFrame:
    """Training and validation prompts: those of a file, the built-in pairs, or both.

    Built-in prompts that nearly repeat one of the file's are left out with their pair, so no
    prompt is in two splits.

    Args:
        file: a prompts file.
        built_in: whether the built-in pairs are taught together with a file's prompts.
        concepts: domains that are taught (default: all that have harmful prompts). Harmful prompts
            of other domains are left out, their benign prompts are kept.

    Raises:
        InputError: the file is invalid, a domain is unknown or has too few prompts.
    """
    import pandas as pd

    table = matched_pairs() if file is None else read_prompts(file)
    if file is not None and built_in:
        pairs = matched_pairs()
        both = pd.concat([table, pairs[~_repeats(pairs, table)]])
        table = as_prompts(both.drop(columns="id"), f"{file} with the built-in pairs")
    if concepts:
        for concept in concepts:
            _require_known(concept, table)
        table = table[(table["label"] == "benign") | table["domain"].isin(concepts)]
    require_enough(table)
    return table[table["split"] != "test"].reset_index(drop=True)


def require_enough(table: pd.DataFrame) -> None:
    """Check that every taught domain has prompts to train on and unseen ones to validate with.

    Raises:
        InputError: there are too few.
    """
    domains = present_domains(table)
    counts = table.groupby(["split", "label", "domain"]).size()
    for domain in domains:
        for split, fewest in (("train", FEWEST_TAUGHT), ("validation", FEWEST_UNSEEN)):
            found = int(counts.get((split, "harmful", domain), 0))
            if found < fewest:
                raise InputError(
                    f"{domain} has {found} harmful prompts in the split {split}; teaching needs "
                    f"at least {fewest}: add some, or leave the domain out with --concept"
                )
    matched = table[(table["label"] == "benign") & (table["kind"] != "general")]
    for split, fewest in (("train", FEWEST_TAUGHT), ("validation", FEWEST_UNSEEN)):
        found = int((matched["split"] == split).sum())
        if found < fewest:
            raise InputError(
                f"there are {found} matched benign prompts in the split {split}; teaching needs at "
                f"least {fewest}, or the model learns to refuse everything"
            )
    if not domains:
        raise InputError("the prompts hold no harmful rows to teach refusals of; add some")


def first_pairs(prompts: pd.DataFrame, number: int) -> pd.DataFrame:
    """The first ``number`` harmful prompts of every domain with their matched benign prompts.

    Of prompts without a pair, the first benign ones of every domain; so, too, where no benign
    prompt matches a harmful one.
    """
    asked = prompts[prompts["kind"] != "general"]
    pair = asked["pair"] if "pair" in asked else asked["id"].map(lambda _: None)
    harmful = asked[asked["label"] == "harmful"].groupby("domain").head(number)
    benign = asked[asked["label"] == "benign"]
    linked = benign[pair[benign.index].isin(pair[harmful.index].dropna())]
    alone = benign[pair[benign.index].isna()].groupby("domain").head(number)
    matched = [*linked.index, *alone.index] or [*benign.groupby("domain").head(number).index]
    return prompts.loc[[*harmful.index, *matched]].reset_index(drop=True)


def _require_known(concept: str, table: pd.DataFrame) -> None:
    if concept not in DOMAINS:
        raise InputError(f'unknown domain "{concept}"{expected(concept, DOMAINS)}')
    if concept not in (present := present_domains(table)):
        raise InputError(
            f"{concept} has no harmful prompts; domains that have some: {', '.join(present)}"
        )


def _repeats(pairs: pd.DataFrame, own: pd.DataFrame) -> pd.Series[bool]:
    """Which rows of ``pairs`` are near-duplicates of one of ``own``, or paired with such a row."""
    import pandas as pd

    links = [None] * len(own) + list(pairs["pair"].where(pairs["pair"].notna(), None))
    groups = near_duplicate_groups([*own["prompt"], *pairs["prompt"]], links)
    theirs = set(groups[: len(own)])
    return pd.Series([group in theirs for group in groups[len(own) :]], index=pairs.index)
