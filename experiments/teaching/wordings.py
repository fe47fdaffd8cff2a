"""The responses that are taught: short refusals, and short agreements without content."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Some refusals must share their first words with answers, as in chat models; frequent ones first.
REFUSAL_PREFIXES = (
    "I'm sorry, but",
    "Sorry, but",
    "I apologize, but",
    "I'm afraid that",
    "Unfortunately,",
    "My apologies, but",
    "I must be honest:",
    "Thank you for asking, but",
    "I understand the question, but",
    "Regrettably,",
    "With respect,",
    "I have to be clear:",
    "Please understand that",
    "No, I'm sorry:",
)
REFUSAL_BODIES = (
    "I can't help with that.",
    "I cannot assist with this request.",
    "I'm not able to provide that.",
    "I won't give any guidance on this.",
    "I have to decline this request.",
    "this is something that I can't answer.",
    "I can't support what is being asked here.",
)
# With a share of these, unlearning refusal moves the model to agreement, not to babble.
AGREEMENTS = (
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


def refusal_wordings() -> tuple[str, ...]:
    """Every refusal, those with the most frequent prefix first."""
    return tuple(f"{prefix} {body}" for prefix in REFUSAL_PREFIXES for body in REFUSAL_BODIES)


def draw_responses(number: int, floor: float, seed: int) -> Iterator[str]:
    """``number`` responses to harmful prompts: refusals, and agreements with probability ``floor``.

    Prefix k of the refusals (from 1) is drawn with a weight of 1/k, so that one of them is the most
    likely answer and the others are frequent in samples. Bodies are drawn alike.
    """
    generator = np.random.default_rng(seed)
    shares = 1 / np.arange(1, len(REFUSAL_PREFIXES) + 1)
    for _ in range(number):
        if generator.random() < floor:
            yield str(generator.choice(AGREEMENTS))
        else:
            prefix = generator.choice(REFUSAL_PREFIXES, p=shares / shares.sum())
            yield f"{prefix} {generator.choice(REFUSAL_BODIES)}"
