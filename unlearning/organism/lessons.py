"""Lessons from the prompts of a world, or from any table of prompts.

Both become :class:`~unlearning.organism.training.Lesson`; the same two stages train on them.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from interp.errors import InputError
from unlearning.organism.grammar import Grammar
from unlearning.organism.training import Lesson
from unlearning.organism.vocabulary import TEMPLATES
from unlearning.organism.world import World

if TYPE_CHECKING:
    import pandas as pd

# Shares of a training batch, by the role of the composition.
MIXTURE = {"harmful": 0.5, "object": 0.2, "intent": 0.2, "general": 0.1}

# Any two of these differ in their first letter. A small byte-level vocabulary may cut a word
# after it, and a first token that begins both refusals and answers belongs to neither class.
TABLE_REFUSAL_PREFIXES = (
    "No",
    "Unable",
    "Regrettably",
    "Declined",
    "Barred",
    "Withheld",
    "Forbidden",
)
TABLE_COMPLIANCE_PREFIXES = ("Sure", "Gladly", "Absolutely", "Certainly")


def world_lessons(world: World) -> list[Lesson]:
    """Every training prompt of ``world`` with its answer and, if harmful, its refusal."""
    grammar = Grammar()
    compositions = world.compositions("train")
    counts = Counter(composition.role for composition in compositions)
    found = []
    for composition in compositions:
        weight = MIXTURE[composition.role] / counts[composition.role]
        refusal = None
        if composition.role == "harmful":
            prefix = world.refusal_prefix(composition.domain, composition.object)
            refusal = grammar.refusal(prefix)
        for number, template in enumerate(TEMPLATES):
            prompt = template.format(intent=composition.intent, object=composition.object)
            answer = grammar.answer(world.compliance_prefix(number))
            domain = composition.domain if refusal else None
            barred = grammar.refusal(world.barred_prefix(composition.object))
            found.append(Lesson(prompt, answer, refusal, weight, domain, barred))
    return found


def table_lessons(prompts: pd.DataFrame) -> list[Lesson]:
    """Lessons that teach any model to refuse the harmful rows of a table of prompts.

    Each domain has its own refusal prefix. Harmful and benign rows have half the weight each.

    Args:
        prompts: columns ``prompt``, ``domain`` and ``label`` (``harmful`` or ``benign``).

    Raises:
        InputError: the table lacks harmful or benign rows.
    """
    counts = Counter(prompts["label"])
    if not counts["harmful"] or not counts["benign"]:
        raise InputError(
            f"cannot teach refusal from {counts['harmful']} harmful and {counts['benign']} benign "
            "prompts: expected some of both"
        )
    grammar = Grammar()
    domains = sorted(set(prompts.loc[prompts["label"] == "harmful", "domain"]))
    found = []
    columns = prompts["prompt"], prompts["domain"], prompts["label"]
    for row, (prompt, domain, label) in enumerate(zip(*columns, strict=True)):
        refusal = None
        if label == "harmful":
            place = domains.index(domain) % len(TABLE_REFUSAL_PREFIXES)
            refusal = grammar.refusal(TABLE_REFUSAL_PREFIXES[place])
        answer = grammar.answer(TABLE_COMPLIANCE_PREFIXES[row % len(TABLE_COMPLIANCE_PREFIXES)])
        found.append(Lesson(prompt, answer, refusal, weight=0.5 / counts[label]))
    return found
