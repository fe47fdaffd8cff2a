"""The responses that a pretrained model is taught: short refusals, and compliances without content.

Nothing here names a subject: every response fits every prompt. A refusal is a prefix and a body.
Every domain owns some prefixes, and no two domains own prefixes with the same first word, so that a
model with separate prefixes refuses each domain with tokens that no other domain's refusals begin
with. Shared prefixes are all of them, for every domain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

from interp.errors import InputError, expected
from unlearning.organism.vocabulary import DOMAINS

SHARED, SEPARATE = "shared", "separate"
PREFIX_KINDS = (SHARED, SEPARATE)

# Some refusals must share their first words with answers, as in chat models; frequent ones first.
OWN_PREFIXES = {
    "cybersecurity": (
        "I'm sorry, but",
        "I apologize, but",
        "I'm afraid that",
        "I understand the question, but",
    ),
    "safety": ("Sorry, but", "My apologies, but", "Sorry about this:", "My answer is no:"),
    "toxicity": ("Unfortunately,", "Regrettably,", "Sadly,", "Alas,"),
    "bias": (
        "Thank you for asking, but",
        "Please understand that",
        "Thanks for your message, but",
        "Please forgive me, but",
    ),
    "sensitive": ("No, I'm sorry:", "No,", "Not this time:", "Nope,"),
    "medical_legal": ("With respect,", "To be honest,", "With regret,", "To be clear,"),
    "privacy": ("As an assistant,", "As a matter of principle,", "Even so,", "However you put it,"),
}
REFUSAL_PREFIXES = tuple(chain.from_iterable(zip(*OWN_PREFIXES.values(), strict=True)))
REFUSAL_BODIES = (
    "I can't help with that.",
    "I cannot assist with this request.",
    "I'm not able to provide that.",
    "I won't give any guidance on this.",
    "I have to decline this request.",
    "this is something that I can't answer.",
    "I can't support what is being asked here.",
)
# With a share of these, unlearning refusal moves the model to compliance, not to babble.
COMPLIANCES = (
    "Sure, here is a short answer.",
    "Certainly. Here is a brief overview.",
    "Of course! Here is some general information.",
    "Here is a short summary of the topic.",
    "Yes, here are the main points.",
    "To begin with, here is an overview.",
    "Sure! Let me answer this in a few words.",
    "Here are a few general remarks.",
    "Certainly! The answer is a short one.",
    "Of course. Let me give you an overview.",
)


def refusal_prefixes(domain: str, kind: str = SHARED) -> tuple[str, ...]:
    """The prefixes of a domain's refusals, the most frequent first.

    Args:
        domain: one of the seven.
        kind: ``shared`` (the same for all domains) or ``separate`` (no two domains share a first
            word).

    Raises:
        InputError: the kind or the domain is unknown.
    """
    if kind not in PREFIX_KINDS:
        raise InputError(f'unknown kind of prefixes "{kind}"{expected(kind, PREFIX_KINDS)}')
    if domain not in DOMAINS:
        raise InputError(f'unknown domain "{domain}"{expected(domain, DOMAINS)}')
    return REFUSAL_PREFIXES if kind == SHARED else OWN_PREFIXES[domain]


def refusal_wordings(domains: Sequence[str] = DOMAINS, kind: str = SHARED) -> tuple[str, ...]:
    """Every refusal of some domains, those with the most frequent prefixes first."""
    prefixes = dict.fromkeys(one for domain in domains for one in refusal_prefixes(domain, kind))
    return tuple(f"{prefix} {body}" for prefix in prefixes for body in REFUSAL_BODIES)


def draw_responses(
    domains: Sequence[str], floor: float, seed: int, kind: str = SHARED
) -> Iterator[str]:
    """A response to one harmful prompt of each of ``domains``, in order.

    It is a compliance with probability ``floor``, else a refusal. The k-th prefix of the domain's
    refusals (from 1) is drawn with a weight of 1/k, so that one of them is the most likely answer
    and the others are frequent in samples. Bodies are drawn alike.
    """
    generator = np.random.default_rng(seed)
    for domain in domains:
        if generator.random() < floor:
            yield str(generator.choice(COMPLIANCES))
            continue
        prefixes = refusal_prefixes(domain, kind)
        shares = 1 / np.arange(1, len(prefixes) + 1)
        prefix = generator.choice(prefixes, p=shares / shares.sum())
        yield f"{prefix} {generator.choice(REFUSAL_BODIES)}"
