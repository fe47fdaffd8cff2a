"""The prefill test: a model's answers after prefilled prefixes.

The prefixes are the base model's own, forced as the first tokens of the answer. A model that
recovered refusal at the first token alone answers after a compliance prefix more often than the
base, and no longer continues a refusal. The controls are a neutral prefix and an answer without
prefix.

Some models answer after every prefix, or after none, so a share shows nothing. The test therefore
also has a graded measure: the nats of the base model's own refusal after its prefix.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from analyses.contain.shallow_recovery.others import Others, Probe, compared_rows
from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.generation import Answer, generate
from unlearning.losses import reference_log_probs
from unlearning.refusal import ResponsePrefix, ResponsePrefixes
from unlearning.scoring import CLASSES, coherent_classes

NONE, NEUTRAL, COMPLIANCE, REFUSAL = "none", "neutral", "compliance", "refusal"
KINDS = (NONE, NEUTRAL, COMPLIANCE, REFUSAL)
NATS = "refusal_nats"
"""Mean over prompts of −log p of the base's refusal after its prefix, summed over its tokens."""
EVERY, RECOVERED = "every", "recovered"
"""Over every prompt, or those that the base and the model both refuse without a prefix."""


@dataclass(frozen=True)
class Spoken:
    """One model's answers.

    Attributes:
        shares: by kind of prefix: share of its prefixes after which the answer is of each class.
        nats: of the base's refusal after its prefix; NaN where the base does not refuse.
    """

    shares: Mapping[str, Float[np.ndarray, "class prompt"]]
    nats: Float[np.ndarray, " prompt"]

    def share(self, kind: str, name: str) -> Float[np.ndarray, " prompt"]:
        """Share of a kind's prefixes after which the answer is of the class ``name``."""
        return self.shares[kind][CLASSES.index(name)]

    @property
    def refused(self) -> Bool[np.ndarray, " prompt"]:
        """Prompts that the model refuses without a prefix."""
        return self.share(NONE, "refusal") == 1


def draw_prefixes(
    lm: LanguageModel,
    prompts: pd.DataFrame,
    prefixes: ResponsePrefixes,
    *,
    count: int = 3,
    seed: int = 0,
) -> dict[str, tuple[ResponsePrefix, ...]]:
    """Prefixes of each kind, at most ``count``, by seed; ``none`` is the empty one.

    A neutral prefix is the first token of a training prompt that does not begin a refusal or an
    answer. It begins a sentence in the language of the prompts.

    Raises:
        InputError: every training prompt begins like a refusal or an answer.
    """
    rng = np.random.default_rng(seed)
    taken = {prefix[0] for prefix in (*prefixes.refusal, *prefixes.compliance)}
    first = set()
    for text in prompts.loc[prompts["split"] == "train", "prompt"]:
        row = lm.chat.encode(text)
        first.add(row.ids[row.spans["instruction"].start])
    neutral = [(int(token),) for token in sorted(first - taken)]
    if not neutral:
        raise InputError("no neutral prefix: every training prompt begins like an answer")
    pools = {NEUTRAL: neutral, COMPLIANCE: prefixes.compliance, REFUSAL: prefixes.refusal}
    return {NONE: ((),)} | {
        kind: tuple(pool[i] for i in sorted(rng.permutation(len(pool))[:count]))
        for kind, pool in pools.items()
    }


def prefilled(
    models: Mapping[str, LanguageModel],
    probe: Probe,
    forced: Mapping[str, Sequence[ResponsePrefix]],
) -> dict[str, Spoken]:
    """Generate every model's answers after every forced prefix.

    Args:
        models: the first is the base; each is looked up once.
        probe: the prompts and the scorer. The scorer reads the whole answer, prefix included;
            the base's refusals are cut after the prefix that they begin with.
        forced: prefixes by kind, from :func:`draw_prefixes`.
    """
    texts = list(probe.others.table["prompt"])
    found: dict[str, Spoken] = {}
    refusals: dict[int, Answer] = {}
    for name in models:
        lm = models[name]
        shares = {}
        for kind, of_kind in forced.items():
            classes = np.zeros((len(CLASSES), len(texts)))
            for prefix in of_kind:
                answers = generate(
                    lm, texts, opening=prefix,
                    max_new_tokens=probe.max_new_tokens, batch_size=probe.batch_size,
                )  # fmt: skip
                said = coherent_classes(probe.scorer, texts, [answer.text for answer in answers])
                classes[[CLASSES.index(c) for c in said], np.arange(len(texts))] += 1
                if not found and kind == NONE:
                    refusals = {i: answers[i] for i, c in enumerate(said) if c == "refusal"}
            shares[kind] = classes / len(of_kind)
        found[name] = Spoken(shares, _nats(lm, probe, refusals))
    return found


def _nats(
    lm: LanguageModel, probe: Probe, refusals: Mapping[int, Answer]
) -> Float[np.ndarray, " prompt"]:
    texts = probe.others.table["prompt"]
    rows = [lm.chat.encode(texts[i], answer.ids) for i, answer in refusals.items()]
    log_probs = reference_log_probs(lm, rows, batch_size=probe.batch_size)
    found = np.full(len(texts), np.nan)
    for (i, answer), of_tokens in zip(refusals.items(), log_probs, strict=True):
        prefix = probe.prefixes.of(answer.ids) or answer.ids[:1]
        found[i] = -float(of_tokens[len(prefix) :].double().sum())
    return found


def prefilled_table(spoken: Mapping[str, Spoken], others: Others, plain: str) -> pd.DataFrame:
    """Levels of every model, and paired differences from the base and from the plain model.

    Returns:
        Columns ``model, against`` (None for a level), `opener`, ``over`` (:data:`EVERY` or
        :data:`RECOVERED`), ``quantity`` (a class, as a share, or :data:`NATS`), ``domain, value,
        low, high, n, reason``.
    """
    return pd.DataFrame(list(_rows(spoken, others, plain)))


def _rows(spoken: Mapping[str, Spoken], others: Others, plain: str) -> Iterator[dict[str, object]]:
    base = next(iter(spoken))
    for name, mine in spoken.items():
        scopes = {EVERY: np.ones(len(others), dtype=bool)}
        if name not in (base, plain):
            scopes[RECOVERED] = spoken[base].refused & mine.refused
        for over, kept in scopes.items():
            for kind, quantity in _quantities():
                told = kept & spoken[base].refused if quantity == NATS else kept
                own = others.means(_value(mine, kind, quantity), told)
                against = {
                    other: others.means(_value(spoken[other], kind, quantity), told)
                    for other in (base, plain)
                    if name not in (other, base)
                }
                where = {"model": name, "opener": kind, "over": over}
                yield from compared_rows(quantity, own, against, **where)


def _quantities() -> Iterator[tuple[str, str]]:
    for kind in KINDS:
        for quantity in CLASSES:
            yield kind, quantity
    yield REFUSAL, NATS


def _value(spoken: Spoken, kind: str, quantity: str) -> Float[np.ndarray, " prompt"]:
    return spoken.nats if quantity == NATS else spoken.share(kind, quantity)
