"""Predictors from interventions on the base model: what the edit of a's direction does to b."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from analyses.predict.evidence import Evidence
from analyses.predict.registry import Predictions, over_domains, predictor
from interp.selection import Prompts, TooFewPromptsError, TransferMatrix, measure_transfer
from unlearning.data import controls

# Relative depths of the directions' layers: the cost does not grow with the number of layers.
DEPTHS = (0.25, 0.5, 0.75)
HALF = 8  # prompts of each kind and domain for the directions, and as many for the effects


@predictor(
    "intervention transfer",
    "geometry",
    paper="Arditi et al. 2024, arXiv 2406.11717",
    badge="variant",
    differs="the component is set to its benign mean, between domains",
)
def intervention_transfer(evidence: Evidence) -> Predictions:
    """Share of b's gap in log-odds removed when a's component is set to its mean; directed.

    Variants by depth: removed from harmful prompts; induced on benign ones when a's difference is
    added; and the representational dependence (Wollschläger et al. 2025, arXiv 2502.17420). NaN for
    a domain with too few prompts that are refused or answered.
    """
    halves = [_half(evidence, slice(start, start + HALF)) for start in (0, HALF)]
    found = {}
    for depth in DEPTHS:
        layer = round(depth * (evidence.lm.n_layers - 1))
        matrix = _measured(evidence, halves, layer)
        for kind in ("removed", "induced", "dependence"):
            labels = () if matrix is None else matrix.labels
            values = np.empty((0, 0)) if matrix is None else getattr(matrix, kind)
            found[f"{kind}, depth {depth}"] = over_domains(evidence.domains, labels, values)
    return found


def _half(evidence: Evidence, part: slice) -> dict[str, Prompts]:
    benign = controls(evidence.responses, "train").rows
    return {
        domain: Prompts(list(rows["prompt"].iloc[part]), list(benign[domain]["prompt"].iloc[part]))
        for domain, rows in evidence.harmful.items()
    }


def _measured(
    evidence: Evidence, halves: Sequence[Mapping[str, Prompts]], layer: int
) -> TransferMatrix | None:
    """The matrix at a layer; None where the model treats too few prompts as labelled."""
    try:
        return measure_transfer(
            evidence.lm,
            halves[0],
            halves[1],
            evidence.read_log_odds,
            layer=layer,
            draws=0,
            batch_size=evidence.batch_size,
        )
    except TooFewPromptsError:
        return None
