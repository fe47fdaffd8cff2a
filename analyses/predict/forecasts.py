"""Forecast of unlearning one domain.

The forecast of another domain's loss is the objective kernel relative to the target's: with Adam's
diagonal, over the trained parameters; or, if their gradients do not fit into memory, over the
adapters or over all weights without stored gradients (:mod:`analyses.predict.streamed`). In the
model organisms, A agreed with this number (``docs/prediction.md``). Whether the target will comply
or become degenerate depends on compliance's current share of the probability that is not refusal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from analyses.figures import Drawing, write_results
from analyses.predict.evidence import Evidence, evidence_of
from analyses.predict.figures import COMPLIES_FROM, forecast_figure
from analyses.predict.gradients import GROUPS, Kernel, gradient_kernel
from analyses.predict.registry import PREDICTORS
from analyses.study import establish
from interp.errors import InputError, expected
from interp.registry import declared_by_plugins
from interp.store import without_nan
from unlearning.refusal import prefix_masses

if TYPE_CHECKING:
    from analyses.study import Context
    from unlearning.training import TrainingSettings

RESAMPLES = 2000
# Objectives whose first step has the direction −∇S_a.
BEGIN_ALIKE = ("npo", "gradient_ascent", "sim_npo")
TRAINED, ADAPTERS, WEIGHTS = KERNELS = ("trainable", "adapters", "weights")
# Spread of A about the kernels on development model organisms, beyond sampling: the error of the
# first-step approximation (docs/prediction.md gives it for projections and LoRA).
BEYOND_FIRST_STEP = {TRAINED: 0.06, ADAPTERS: 0.07, WEIGHTS: 0.07}


@dataclass(frozen=True)
class Forecast:
    """One target's forecast.

    Attributes:
        concept: what would be unlearned.
        leakage: a row per other domain, most first: ``domain, value, low, high, error``; the
            expected A (0 untouched, 1 same rate as the target); its standard error over prompts;
            and a 95% interval that covers both that error and the error of the first-step
            approximation on development model organisms. NaN throughout if the objective has no
            significant effect on the target's own refusal log-odds.
        compliance: p_C/(p_C + p_O) on the target's harmful prompts: ``value, low, high``.
        rankings: ``predictor, kind, variant, domain, value`` of every predictor.
    """

    concept: str
    leakage: pd.DataFrame
    compliance: Mapping[str, float]
    rankings: pd.DataFrame

    @property
    def defined(self) -> bool:
        """Whether the objective changes the target's own log-odds, which a forecast needs."""
        return bool(np.isfinite(self.leakage["value"]).any())

    def text(self, folder: Path) -> str:
        """The text that the command prints: table, sentences and path."""
        table = [self.leakage.round(2).to_string(index=False)] if self.defined else []
        return "\n".join([*table, *self.sentences(), str(folder / "forecast.json")])

    def sentences(self) -> list[str]:
        """The forecast in words."""
        share = self.compliance
        said = (
            "comply"
            if share["value"] >= COMPLIES_FROM
            else "become degenerate (neither refuse nor answer)"
        )
        ending = (
            f"On {self.concept} prompts, compliance has {_shown(share)} of the probability that is "
            f"not refusal: after unlearning, the target should {said}."
        )
        if not self.defined:
            return [
                f"The objective has no significant effect on {self.concept}'s own refusals (its "
                "kernel does not differ from 0), so leakage cannot be forecast.",
                ending,
            ]
        top = self.leakage.iloc[0]
        return [
            f"Most exposed: {top['domain']}, which should lose {_shown(top)} of what "
            f"{self.concept} does. (Intervals cover prompt sampling and the error of the "
            "first-step approximation on development model organisms.)",
            ending,
        ]


def forecast(
    evidence: Evidence, concept: str, frozen: Mapping[str, Any], *, seed: int, over: str = TRAINED
) -> Forecast:
    """Forecast the unlearning of ``concept``.

    Args:
        evidence: from the base model.
        concept: one of its domains.
        frozen: the variant of each predictor (``analyses.predict.tournaments.read_choices``), for
            ``rankings``; a layer is mapped by its relative depth.
        seed: for resampled prompts.
        over: parameters of the kernel. ``trained`` keeps their gradients in main memory. LoRA
            ``adapters`` and all ``weights`` store no gradients and leave out the other predictors
            from gradients.

    Raises:
        InputError: the domain or the kernel is unknown, or training would not use adapters.
    """
    require_kernel(over)
    if concept not in evidence.domains:
        raise InputError(f'"{concept}" has no prompts; expected {", ".join(evidence.domains)}')
    evidence.require_target(concept)
    if over == TRAINED:
        found = gradient_kernel(
            evidence.deflection_gradients, evidence.log_odds_gradients, adam=True
        )
    elif over == ADAPTERS:
        found = evidence.objective_kernel_of_adapters
    else:
        found = evidence.objective_kernel_of_all_weights
    return Forecast(
        concept,
        _leakage(found.relative(), evidence, concept, BEYOND_FIRST_STEP[over]),
        _compliance(evidence, concept, seed),
        _rankings(evidence, concept, frozen, without=None if over == TRAINED else "kernel"),
    )


def report_forecast(
    context: Context,
    concept: str,
    training: TrainingSettings,
    frozen: Mapping[str, Any],
    *,
    seed: int,
    over: str = TRAINED,
) -> Forecast:
    """Forecast the unlearning of ``concept``; write JSON, CSV and a figure into the run's folder.

    Raises:
        InputError: the model refuses too few of the prompts of some domain.
    """
    with context.run.locked():
        evidence = evidence_of(context, establish(context), training)
        with context.progress.stage(f"gradients of {len(evidence.domains)} domains"):
            found = forecast(evidence, concept, frozen, seed=seed, over=over)
        _write_forecast(context, found, concept, over)
    return found


def _write_forecast(context: Context, found: Forecast, concept: str, over: str) -> None:
    folder = context.run.folder
    rows = found.leakage.to_dict("records")
    facts = {
        "concept": concept,
        "kernel": "trained" if over == TRAINED else over,
        "leakage": rows,
        "compliance": found.compliance,
    }
    drawn = []
    if found.defined:
        drawn.append(Drawing("forecast", "", "", forecast_figure(found), found.leakage))
    write_results(
        folder,
        tables={"forecast": found.leakage, "predictors": found.rankings},
        facts={"forecast": without_nan(facts)},
        drawings=drawn,
        figures="",
    )


def require_forecastable(objective: str, *, retained: bool) -> None:
    """Check that the objective's first step is the kernel's.

    Raises:
        InputError: the objective has another first step, or there is a retain set.
    """
    if objective not in BEGIN_ALIKE:
        raise InputError(
            f"a forecast needs an objective that starts along the gradient of the target's "
            f"refusals: {', '.join(BEGIN_ALIKE)}; {objective} does not"
        )
    if retained:
        raise InputError(
            "a forecast is for unlearning without a retain set; spillover contain measures the "
            "effect of a retain set"
        )


def require_kernel(name: str) -> None:
    """Check the name of a kernel's parameters.

    Raises:
        InputError: the kernel does not exist.
    """
    if name not in KERNELS:
        raise InputError(f'unknown kernel "{name}"{expected(name, KERNELS)}')


def _leakage(relative: Kernel, evidence: Evidence, concept: str, beyond: float) -> pd.DataFrame:
    row = evidence.domains.index(concept)
    value, error = relative.values[row], relative.standard_error[row]
    half = np.hypot(stats.t.ppf(0.975, GROUPS - 1) * error, stats.norm.ppf(0.975) * beyond)
    columns = {"value": value, "low": value - half, "high": value + half, "error": error}
    table = pd.DataFrame({"domain": evidence.domains, **columns})
    table = table[table["domain"] != concept]
    return table.sort_values("value", ascending=False, ignore_index=True)


def _compliance(evidence: Evidence, concept: str, seed: int) -> dict[str, float]:
    rows = [evidence.lm.chat.encode(prompt) for prompt in evidence.harmful[concept]["prompt"]]
    masses = prefix_masses(evidence.lm, rows, evidence.prefixes, batch_size=evidence.batch_size)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(rows), size=(RESAMPLES, len(rows)))
    p_C, p_O = masses.p_C, masses.p_O
    shares = p_C[drawn].mean(axis=1) / (p_C + p_O)[drawn].mean(axis=1)
    low, high = np.quantile(shares, [0.025, 0.975])
    value = p_C.mean() / (p_C + p_O).mean()
    return {"value": float(value), "low": float(low), "high": float(high)}


def _rankings(
    evidence: Evidence, concept: str, frozen: Mapping[str, Any], *, without: str | None
) -> pd.DataFrame:
    row = evidence.domains.index(concept)
    rows = []
    own = declared_by_plugins("predictor")
    for predictor in PREDICTORS.values():
        if predictor.kind == without or predictor.name not in {**frozen["choices"], **own}:
            continue
        found = predictor.predict(evidence)
        variants = list(found)  # of a plug-in, without a frozen choice
        if chosen := frozen["choices"].get(predictor.name):
            variants = [at_depth(chosen, frozen["layers"], evidence.lm.n_layers)]
        rows += [
            (predictor.name, predictor.kind, variant, domain, float(value))
            for variant in variants
            for domain, value in zip(evidence.domains, found[variant][row], strict=True)
            if domain != concept
        ]
    return pd.DataFrame(rows, columns=["predictor", "kind", "variant", "domain", "value"])


def at_depth(variant: str, chosen_of: int, layers: int) -> str:
    """The variant with its layer moved to the same relative depth in another model."""

    def moved(found: re.Match[str]) -> str:
        depth = int(found.group(1)) / max(chosen_of - 1, 1)
        return f"layer {round(depth * (layers - 1))}"

    return re.sub(r"layer (\d+)", moved, variant)


def _shown(numbers: Mapping[str, float] | pd.Series) -> str:
    return f"{numbers['value']:.2f} ({numbers['low']:.2f} to {numbers['high']:.2f})"
