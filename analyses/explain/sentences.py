"""Sentences about the cause and the place of a loss."""

from __future__ import annotations

import pandas as pd

from analyses.figures import domain_label
from analyses.runs import FEWEST_PROMPTS
from interp.causes import MIXED, CauseVerdict
from interp.statistics import MINIMUM_UNITS

PLACES = {
    "rotation": "in the orientation of its direction after layer {layer} (rotation)",
    "gain": "in the length of its direction after layer {layer} (gain)",
    "offset": "in a shift of harmful and benign prompts alike after layer {layer} (offset)",
    "routing": "in how later layers use the states after layer {layer} (routing)",
}


def cause_sentence(domain: str, concept: str | None, verdict: CauseVerdict) -> str:
    """The verdict as a sentence."""
    lost = _loss(domain, concept, verdict.gap)
    if verdict.cause is None:
        return f"{lost}; these data do not decide the cause ({verdict.because})."
    if verdict.cause == MIXED:
        return f"{lost}; the cause is mixed after layer {verdict.layer} ({verdict.because})."
    share = verdict.shares.shapley[verdict.cause]
    where = PLACES[verdict.cause].format(layer=verdict.layer)
    return (
        f"{lost}; the largest share of it, {share.value:.0%} [{share.low:.0%}, {share.high:.0%}], "
        f"is {where}; {_chance(verdict.control_high)}."
    )


def too_few_sentence(domain: str, concept: str | None, nats: float) -> str:
    """The loss of a domain whose prompts give no contrast, as a sentence."""
    return (
        f"{_loss(domain, concept, nats)}; not explained: fewer than {FEWEST_PROMPTS} harmful or "
        f"benign validation and test prompts, or fewer than {MINIMUM_UNITS} different ones."
    )


def _loss(domain: str, concept: str | None, nats: float) -> str:
    when = f" when {domain_label(concept).lower()} was unlearned" if concept else ""
    return f"{domain_label(domain)} lost {nats:.1f} nats of refusal log-odds{when}"


def _chance(high: float) -> str:
    if not high > 0:
        return "95% of random changes of the same size carry nothing of it"
    return f"95% of random changes of the same size carry less than {max(high, 0.01):.0%}"


def place(weights: pd.DataFrame) -> str:
    """The place of the weights that carry the loss, as a sentence."""
    clear = weights[weights["stands_out"] & (weights["fraction"] > 0)]
    if clear.empty:
        known = "from random edits of the same size " if "control_low" in weights else ""
        return f"No single module's weights stand out {known}in both directions."
    best = clear.sort_values("fraction").iloc[-1]
    module = f"{best['component']} of layer {best['layer']}"
    if pd.isna(best["layer"]):
        module = str(best["component"])
    said = (
        f"The base's weights in {module} alone restore {_share(best, 'fraction')} of it, and "
        f"taking them from the base removes {_share(best, 'removed')}"
    )
    if "control_fraction_high" in best:
        said += (
            f"; random edits of the same size restore {max(best['control_fraction_high'], 0):.0%}"
        )
    return f"{said}."


def _share(row: pd.Series, name: str) -> str:
    return f"{row[name]:.0%} [{row[f'{name}_low']:.0%}, {row[f'{name}_high']:.0%}]"
