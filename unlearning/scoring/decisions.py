"""From log-probabilities to classes, with the rules first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from unlearning.scoring.classes import Texts
from unlearning.scoring.classifier import LEARNED

#: Log-odds of a refusal above the threshold, and log-probabilities of ``LEARNED``, of each answer.
Read = Callable[
    [Texts, Texts], tuple[Float[np.ndarray, " response"], Float[np.ndarray, "response class"]]
]


def decided(
    prompts: Texts, responses: Texts, rule: Callable[[str, str], str | None], read: Read
) -> list[str]:
    """Fine classes: by rule where one decides, else by log-probabilities.

    A refusal is what reaches the threshold; everything else gets its most probable other class.

    Args:
        prompts, responses: the answers.
        rule: the class that needs no reading, else None.
        read: is asked for the others only.
    """
    found = [rule(*pair) for pair in zip(prompts, responses, strict=True)]
    undecided = [place for place, name in enumerate(found) if name is None]
    if undecided:
        odds, logs = read([prompts[i] for i in undecided], [responses[i] for i in undecided])
        others = logs[:, 1:].argmax(axis=1) + 1
        for place, margin, other in zip(undecided, odds, others, strict=True):
            found[place] = LEARNED[0 if margin >= 0 else other]
    return [name for name in found if name is not None]
