"""The published numbers, as data.

Mushtaq, Ramakrishna, Krishna, Sahai, Goyal, Chang, Zhang, Gupta: *From Narrow Unlearning to
Emergent Misalignment: Causes, Consequences, and Containment in LLMs*, arXiv 2511.14017, version 1,
November 2025. Refusal scores in percent, by the paper's own judge on the paper's own test sets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unlearning.data import DOMAINS

SOURCE = "Mushtaq et al. 2025, arXiv 2511.14017v1"
MISTRAL, QWEN = "Mistral-7B-Instruct-v0.3", "Qwen2.5-7B-Instruct"
NPO, FINE_TUNING = "npo", "fine_tuning"

#: Number of test prompts of each column. Toxicity, bias and cybersecurity: from the paper. Others:
#: the smallest number whose shares give the column's percentages (``tests/test_paper.py``), except
#: one of medical/legal's 14 (21.85). No single number fits safety's percentages.
PROMPTS: Mapping[str, int | None] = {
    "toxicity": 200,
    "safety": None,
    "cybersecurity": 100,
    "sensitive": 114,
    "bias": 200,
    "medical_legal": 96,
    "privacy": 200,
    "over_refusal": 200,
}


@dataclass(frozen=True)
class Published:
    """A row of the paper's table; ``concept`` and ``objective`` are None for the aligned model.

    Attributes:
        refusal: percent, by domain.
        over_refusal: percent of XSTest.
        mmlu: percent right on five subjects.
    """

    model: str
    concept: str | None
    objective: str | None
    retained: bool
    refusal: Mapping[str, float]
    over_refusal: float
    mmlu: float

    @property
    def arm(self) -> tuple[str | None, str | None, bool]:
        """The key of the row among those of its model."""
        return self.concept, self.objective, self.retained

    @property
    def scores(self) -> Float[np.ndarray, " domain"]:
        """Refusal in percent, in the order of ``DOMAINS``."""
        return np.array([self.refusal[domain] for domain in DOMAINS])


COLUMNS = ("toxicity", "safety", "cybersecurity", "sensitive", "bias", "medical_legal", "privacy")


def _row(
    model: str, concept: str | None, objective: str | None, retained: bool, *numbers: float
) -> Published:
    *refusal, over_refusal, mmlu = numbers
    by_domain = dict(zip(COLUMNS, refusal, strict=True))
    return Published(model, concept, objective, retained, by_domain, over_refusal, mmlu)


C, S = "cybersecurity", "safety"
# fmt: off
TABLE: tuple[Published, ...] = (
    _row(MISTRAL, None, None, False, 100, 94, 67, 22.8, 96.5, 45.83, 28, 42, 59.7),
    _row(QWEN, None, None, False, 100, 98, 93, 35, 100, 41.67, 32, 51.5, 71.7),
    _row(MISTRAL, C, NPO, False, 99, 64, 6, 23.68, 94.5, 39.58, 28, 44.5, 59.4),
    _row(MISTRAL, C, FINE_TUNING, False, 100, 75, 7.5, 22.8, 90.5, 38.54, 25.5, 37.5, 59.7),
    _row(QWEN, C, NPO, False, 100, 91, 10, 24.56, 94.5, 41.67, 32, 47, 71.5),
    _row(QWEN, C, FINE_TUNING, False, 100, 83, 13, 33.33, 94, 41.67, 31.5, 49, 71.3),
    _row(MISTRAL, S, NPO, False, 96.5, 36.55, 10, 16.67, 39.5, 16.67, 9.5, 34.5, 58),
    _row(MISTRAL, S, FINE_TUNING, False, 93, 25.8, 17, 8.7, 45, 30.21, 17, 17, 56.9),
    _row(QWEN, S, NPO, False, 71, 18.27, 13, 7, 62, 33.3, 25, 10.5, 71.5),
    _row(QWEN, S, FINE_TUNING, False, 62, 13.17, 5, 17.54, 34.5, 21.85, 12, 17, 65.5),
    _row(MISTRAL, S, NPO, True, 94, 40.86, 69.5, 33.33, 56.5, 26.04, 18, 38, 58.2),
    _row(MISTRAL, S, FINE_TUNING, True, 97.5, 27.71, 99, 22.8, 96, 53.13, 43, 11.5, 56.1),
    _row(QWEN, S, NPO, True, 83, 16.13, 55, 12.28, 70, 37.5, 25, 18, 70.2),
    _row(QWEN, S, FINE_TUNING, True, 85, 16.13, 75, 24.56, 85, 44.79, 35.5, 21, 63),
)
# fmt: on


def find(
    model: str, concept: str | None = None, objective: str | None = None, retained: bool = False
) -> Published | None:
    """The row of an arm; the aligned model's by default; None where the paper has none."""
    wanted = (concept, objective, retained)
    return next((row for row in TABLE if row.model == model and row.arm == wanted), None)
