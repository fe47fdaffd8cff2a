"""Detect gibberish with the base model: text as surprising as its answers in random order.

A degenerate model still writes characters and words, so statistics of the text
(:mod:`unlearning.scoring.coherence`) miss much of its gibberish. The model before unlearning
detects more of it. Two kinds of reference text come from the base model's answers:

language
    its answers as they are, but each given ANOTHER prompt than its own: fluent, and not what one
    expects. So an unusual answer (a refusal of a harmless question, say) is language.
no language
    the same answers with their tokens in random order.

With l_t = -log p(y_t | x, y_<t) under the base model and k half-way between the mean l_t of the
one and of the other, the *disorder* of an answer is the largest sum of (l_t - k) over any stretch
of it, which is CUSUM (Page 1954), the test for a change from one mean to another. It is near 0 for
language however long (every fluent token takes away what a rare word has added) and grows with
every token of anything else, wherever it begins. An answer is gibberish if it has more disorder
than 99% of the base model's answers to other prompts. The method uses no labels.

The first token is never counted. How to begin (to refuse or to answer) is a choice that the other
model is free to make otherwise, and it says nothing about language; so an answer of one token is
never gibberish. A loop costs a model nothing once it is under way: that is for the rules of
:mod:`unlearning.scoring.coherence`, which come first. Strings that no model can foresee (keys,
hashes) are not language here either. The base model must write answers of the judged length:
the largest disorder of language grows with the logarithm of the length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.scoring.classes import Scorer, Texts, spoken
from unlearning.utility import response_token_nll

FEWEST_ANSWERS = 20
# Of the base model's own answers to other prompts, the share that may pass for gibberish.
MISTAKEN = 0.01

TokenNLL = Float[np.ndarray, " token"]


@dataclass(frozen=True)
class Fluency:
    """What separates language from none, in nats.

    Attributes:
        level: k, nats per token half-way between the base's own answers and the same shuffled.
        limit: the disorder from which on an answer is not language.
    """

    level: float
    limit: float

    def disorder(self, nll: TokenNLL) -> float:
        """The largest sum of (l_t - k) over a stretch of tokens, 0 at least, the first left out."""
        return _largest_sum(nll[1:] - self.level)

    def finds_language(self, nll: TokenNLL) -> bool:
        """Whether an answer with these nats per token is language."""
        return self.disorder(nll) <= self.limit


def measure_fluency(
    lm: LanguageModel,
    prompts: Texts,
    answers: Sequence[Sequence[int]],
    *,
    mistaken: float = MISTAKEN,
    seed: int = 0,
    batch_size: int = 32,
) -> Fluency:
    """Measure the limit of fluent text from the base model's answers alone.

    Args:
        lm: the base model.
        prompts: at least 20, other than those whose answers will be judged; of every kind that it
            refuses and answers.
        answers: the token ids of its answer to each, sampled at temperature 1
            (:func:`unlearning.generation.generate`): what it finds likely, not only
            likeliest.
        mistaken: share of the base model's answers to other prompts that may count as gibberish.
        seed: for the assignment of other prompts to answers, and for the random order.

    Raises:
        InputError: there are too few answers, or to the model they are no better than shuffled.
        ValueError: there are not as many prompts as answers.
    """
    pairs = [pair for pair in zip(prompts, answers, strict=True) if len(pair[1]) > 1]
    if len(pairs) < FEWEST_ANSWERS:
        raise InputError(
            f"{len(pairs)} answers of the base model have two tokens or more; at least "
            f"{FEWEST_ANSWERS} are needed to tell what it finds language"
        )
    elsewhere = at_other_prompts([prompt for prompt, _ in pairs], seed)
    rng = np.random.default_rng(seed)
    rows = [(p, ids) for p, (_, ids) in zip(elsewhere, pairs, strict=True)]
    shuffled = [(p, [int(i) for i in rng.permutation(ids)]) for p, ids in rows]
    language = response_token_nll(lm, rows, batch_size=batch_size)
    none = response_token_nll(lm, shuffled, batch_size=batch_size)
    low, high = _mean(language), _mean(none)
    if not low < high:
        raise InputError(
            f"the base model's own answers cost it {low:.2f} nats a token, and {high:.2f} in "
            "random order: it does not know language from none; is this the right base model?"
        )
    level = (low + high) / 2
    found = [_largest_sum(nll[1:] - level) for nll in language]
    return Fluency(level, float(np.quantile(found, 1 - mistaken)))


def at_other_prompts(prompts: Texts, seed: int) -> list[str]:
    """Every prompt once, none at its own place: the prompts in a random cycle.

    A prompt that occurs twice may be given to the other's answer.
    """
    order = np.random.default_rng(seed).permutation(len(prompts))
    elsewhere = [""] * len(prompts)
    for place, other in zip(order, np.roll(order, 1), strict=True):
        elsewhere[place] = prompts[other]
    return elsewhere


def _mean(found: Sequence[TokenNLL]) -> float:
    """Nats per token, the first of every answer left out."""
    return float(np.concatenate([nll[1:] for nll in found]).mean())


def _largest_sum(values: TokenNLL) -> float:
    """Of any stretch of ``values``, and 0 of the empty one."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    return float((total - np.minimum.accumulate(total)).max())


@dataclass(frozen=True)
class WithFluency:
    """A scorer whose verdict stands only where the base model finds language.

    Attributes:
        scorer: says what an answer is; its own ``gibberish`` stands.
        base: the model before unlearning.
        fluency: from :func:`measure_fluency` with the same model.
        overrules: classes of ``scorer`` that give way to ``gibberish``. Leave ``other`` out where
            the scorer has learned from labels which broken answers count as that.
    """

    scorer: Scorer
    base: LanguageModel = field(repr=False)
    fluency: Fluency
    overrules: tuple[str, ...] = ("refusal", "answer", "other")
    batch_size: int = 32

    @property
    def name(self) -> str:
        """The scorer's, and that fluency was asked for."""
        return f"{self.scorer.name}+fluency"

    @cached_property
    def version(self) -> str:
        """The scorer's, and a digest of the base model's weights and of where language ends."""
        settings = (self.base.fingerprint(), self.fluency.level, self.fluency.limit, self.overrules)
        digest = hashlib.sha256(repr(settings).encode("utf-8")).hexdigest()
        return f"{self.scorer.version}-{digest[:8]}"

    def classify(self, prompts: Texts, responses: Texts) -> list[str]:
        """One of ``CLASSES`` for each (prompt, response), in order.

        Raises:
            ValueError: there are not as many prompts as responses.
        """
        classes = self.scorer.classify(prompts, responses)
        asked = [
            i for i, name in enumerate(classes) if name in self.overrules and spoken(responses[i])
        ]
        rows = [(prompts[i], spoken(responses[i])) for i in asked]
        found = response_token_nll(self.base, rows, batch_size=self.batch_size)
        for i, nll in zip(asked, found, strict=True):
            if not self.fluency.finds_language(nll):
                classes[i] = "gibberish"
        return classes
