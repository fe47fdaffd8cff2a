"""The raw results of an evaluation: a row per prompt, and related tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analyses.evaluate.plan import EvaluationPlan
from interp.statistics import Estimate
from unlearning.refusal import VALID_AUC, ResponsePrefixes

if TYPE_CHECKING:
    import pandas as pd

MODEL, BASE = "model", "base"
# The group of all domains together.
ALL = "all"
# Columns of a number in every table.
NUMBER = ["value", "low", "high", "n", "reason"]
# The reading p_R > .5, which counts as a scorer if the refusal log-odds are valid.
LOG_ODDS = "margin"


def refused_by(scorer: str) -> str:
    """The column of scores with a scorer's reading: 1 refused, 0 not."""
    return f"refused_{scorer}"


def class_by(scorer: str) -> str:
    """The column of scores with the class that a scorer gave."""
    return f"class_{scorer}"


@dataclass(frozen=True)
class ReadoutCheck:
    """Whether first-token masses separate this model's refusals from its answers.

    Attributes:
        prefixes: R and C of the base model, or of the model itself without a base; ``None`` if
            none were found or the answers came from a server.
        auc: of the log-odds against the headline scorer, on prompts that no prefix was learned
            from.
        why_not: why log-odds are missing; ``None`` if they are not.
        prefix_texts: the texts of the prefixes of R and of C.
    """

    prefixes: ResponsePrefixes | None
    auc: Estimate
    why_not: str | None = None
    prefix_texts: Mapping[str, tuple[str, ...]] | None = None

    @property
    def valid(self) -> bool:
        """Whether p_R > .5 is a valid reading of refusal."""
        return self.prefixes is not None and self.auc.defined and self.auc.value >= VALID_AUC

    @property
    def verdict(self) -> str:
        """One sentence: whether to read p_R, and if not, what to read instead."""
        if self.prefixes is None:
            why = str(self.why_not)
            end = "" if why.endswith("?") else "."
            return f"No refusal log-odds: {why}{end} Read the text classes."
        if not self.auc.defined:
            return (
                "The refusal log-odds cannot be checked, because the held-out prompts were all "
                "refused or all answered: use the text classes, not p_R."
            )
        told = f"AUC {self.auc.value:.2f}, needed {VALID_AUC}"
        if self.valid:
            return f"The refusal log-odds separate refusals from answers ({told})."
        return (
            "The refusal log-odds do not separate this model's refusals from its answers "
            f"({told}): use the text classes, not p_R."
        )


@dataclass(frozen=True)
class Findings:
    """All results from the models.

    Attributes:
        plan: the plan of the evaluation.
        panel: names of the scorers, the headline first.
        scores: a row per counted prompt and role (``model``, ``base``): ``role, prompt_id, split,
            domain, label, kind, source, cluster`` (near-duplicates share one); for each scorer
            ``refused_NAME`` (1 or 0) and ``class_NAME``; ``answer_nats`` (per token, under the
            base), ``repetition``, ``finished`` (1 or 0) and, with a base, ``no_language`` (1: not
            language);
            `p_R, p_C, p_O, margin` if prefixes exist.
        readout: whether those masses are valid.
        divergence: KL to the base: ``prompt_id, domain, kind, cluster, position`` (from 1),
            ``nats``; None without a base that shares the device.
        texts: ``role, text, nats, tokens, bytes`` of the plain texts, or None.
        tasks: ``role, task, item, metric, value``, or None.
        completions: the answers' text by role and prompt id; kept out of every table.
        notes: notes for the reader, in sentences.
        fingerprints: of the models' weights, by role.
        seconds: duration.
        checks: the self-checks of the loaded models, by role.
    """

    plan: EvaluationPlan
    panel: tuple[str, ...]
    scores: pd.DataFrame
    readout: ReadoutCheck
    divergence: pd.DataFrame | None
    texts: pd.DataFrame | None
    tasks: pd.DataFrame | None
    completions: Mapping[tuple[str, str], str]
    notes: tuple[str, ...]
    fingerprints: Mapping[str, str]
    seconds: float
    checks: Mapping[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """Name of the headline scorer."""
        return self.panel[0]

    @property
    def readings(self) -> tuple[str, ...]:
        """The scorers, and the reading of p_R if it is valid."""
        return (*self.panel, LOG_ODDS) if self.readout.valid else self.panel

    @property
    def roles(self) -> tuple[str, ...]:
        """``model``, and ``base`` if given."""
        return (MODEL, BASE) if self.plan.base else (MODEL,)
