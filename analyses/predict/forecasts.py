"""Forecast of unlearning one domain.

The forecast of another domain's loss is the objective kernel relative to the target's: with Adam's
diagonal, over the trained parameters; or, if their gradients do not fit into memory, over the
adapters or over all weights without stored gradients (:mod:`analyses.predict.streamed`). In the
model organisms, A agreed with this number (``docs/explanation/prediction.md``). Whether the target
will comply or become degenerate depends on compliance's current share of the probability that is
not refusal.

Where refusal is read from text there are no log-odds. The likelihood of a domain's own refusals
takes their place in the kernel. It ranks the domains; what it says of levels was not compared with
trained models, and nothing is said of compliance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from analyses.figures import Drawing, write_results
from analyses.predict.by_prompt import LEVELS, flip_column, forecast_by_prompt, most_at_risk
from analyses.predict.evidence import Evidence, evidence_of
from analyses.predict.figures import COMPLIES_FROM, forecast_figure
from analyses.predict.gradients import GROUPS
from analyses.predict.products import Kernel
from analyses.predict.registry import PREDICTORS
from analyses.predict.world import at_depth
from analyses.runs import PROMPT_FORECAST, unit_of
from analyses.study import NoLogOddsError, establish
from interp.errors import InputError, expected
from interp.progress import Advance, silent
from interp.registry import declared_by_plugins
from interp.statistics import RESAMPLES, Draws, resampling_weights, unit_count, weighted_means
from interp.store import without_nan, write_table
from unlearning.refusal import prefix_masses

if TYPE_CHECKING:
    from analyses.study import Baseline, Context
    from unlearning.refusal import ResponsePrefixes
    from unlearning.training import TrainingSettings

LOG_ODDS, LIKELIHOOD = "log-odds", "likelihood of refusals"
# Objectives whose first step has the direction −∇S_a.
BEGIN_ALIKE = ("npo", "gradient_ascent", "sim_npo")
TRAINED, ADAPTERS, WEIGHTS = KERNELS = ("trainable", "adapters", "weights")
# Error of the first-step approximation: the root mean square of forecast less A over the 504 cells
# of the tournament on gated model organisms, bias included (ungated ones: 0.06); without Adam's
# diagonal for those that keep no gradient.
BEYOND_FIRST_STEP = {TRAINED: 0.16, ADAPTERS: 0.22, WEIGHTS: 0.22}


@dataclass(frozen=True)
class Forecast:
    """One target's forecast.

    Attributes:
        concept: what would be unlearned.
        leakage: a row per other domain, most first: ``domain, value, low, high, error``; the
            expected A (0 untouched, 1 same rate as the target); its standard error over prompts;
            and a 95% interval that covers both that error and, for log-odds, the error of the
            first-step approximation on gated model organisms. NaN throughout if the
            objective has no significant effect on the target's own refusals; NaN for ``unforecast``
            domains.
        compliance: p_C/(p_C + p_O) on the target's harmful prompts: ``value, low, high``, where
            near-duplicates count as one prompt (NaN with fewer than five); None without log-odds.
        rankings: ``predictor, kind, variant, domain, value`` of every predictor.
        beyond: standard deviation of the error of the first-step approximation; 0 by text.
        readout: ``LOG_ODDS``, or ``LIKELIHOOD`` of the domains' own refusals.
        left_out: names of predictors that need log-odds, where there are none.
        prompts: the forecast of every prompt that was asked for
            (:func:`analyses.predict.by_prompt.forecast_by_prompt`); None where there is none.
        why_no_prompts: the reason for that; empty if no prompts were asked for.
        unforecast: other domains with too few harmful training prompts (of refusals, where they are
            read from text).
        uncontrasted: domains with too few prompts for the predictors from states.
    """

    concept: str
    leakage: pd.DataFrame
    compliance: Mapping[str, float] | None
    rankings: pd.DataFrame
    beyond: float = BEYOND_FIRST_STEP[TRAINED]
    readout: str = LOG_ODDS
    left_out: tuple[str, ...] = ()
    prompts: pd.DataFrame | None = None
    why_no_prompts: str = ""
    unforecast: tuple[str, ...] = ()
    uncontrasted: tuple[str, ...] = ()

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
        return [
            self._most_exposed(), self._ending(), *self._about_text(), *self._about_few(),
            *self._about_prompts(),
        ]  # fmt: skip

    def _most_exposed(self) -> str:
        if self.leakage.empty:
            return f"{self.concept} is the only domain, so no leakage can be forecast."
        if not set(self.leakage["domain"]) - set(self.unforecast):
            return f"All other domains have too few {self._lacking} for a forecast."
        if not self.defined:
            return (
                f"The objective has no significant effect on {self.concept}'s own refusals (its "
                "kernel does not differ from 0), so leakage cannot be forecast."
            )
        top = self.leakage.iloc[0]
        if self.readout == LIKELIHOOD:
            return (
                f"Most exposed: {top['domain']}, whose refusals should lose {_shown(top)} of the "
                f"log-likelihood that {self.concept}'s lose. (Intervals cover prompt sampling.)"
            )
        return (
            f"Most exposed: {top['domain']}, which should lose {_shown(top)} of what "
            f"{self.concept} does. (Intervals cover prompt sampling and the error of the "
            f"first-step approximation on gated model organisms, {self.beyond:g}.)"
        )

    @property
    def _lacking(self) -> str:
        return "refusals" if self.readout == LIKELIHOOD else "harmful training prompts"

    def _ending(self) -> str:
        share = self.compliance
        if share is None:
            return (
                f"Whether {self.concept} will comply or become degenerate is not forecast: that "
                "needs refusal log-odds."
            )
        complies = share["value"] >= COMPLIES_FROM
        said = "comply" if complies else "become degenerate (neither refuse nor answer)"
        return (
            f"On {self.concept} prompts, compliance has {_shown(share)} of the probability that is "
            f"not refusal: after unlearning, the target should {said}."
        )

    def _about_text(self) -> list[str]:
        """What the numbers are read from, where there are no log-odds."""
        if self.readout != LIKELIHOOD:
            return []
        said = [
            "Refusal is read from the text of this model's answers, so there are no refusal "
            "log-odds: the forecast is read from the likelihood of the model's own refusals. It "
            "ranks domains; its level was not compared with trained models."
        ]
        if self.left_out:
            said.append(
                f"Predictors left out, because they need log-odds: {', '.join(self.left_out)}."
            )
        return said

    def _about_few(self) -> list[str]:
        """The domains with too few prompts for a number."""
        said = []
        if self.unforecast:
            names = ", ".join(self.unforecast)
            said.append(f"Without a forecast, for too few {self._lacking}: {names}.")
        if self.uncontrasted:
            said.append(
                "Without predictions from states, for too few harmful or benign training prompts: "
                f"{', '.join(self.uncontrasted)}."
            )
        return said

    def _about_prompts(self) -> list[str]:
        """How many prompts are at risk, or why there is no forecast by prompt."""
        if self.prompts is None:
            why = self.why_no_prompts
            return [f"Single prompts have no forecast: {why}."] if why else []
        others = self.prompts[self.prompts["domain"] != self.concept]
        refused = others[others["log_odds"] > 0]
        if len(refused) and refused[flip_column(LEVELS[-1])].isna().all():
            return [
                f"By this forecast {self.concept} never loses 90% of its refusal, so no prompt has "
                "a probability to lose its own then (prompts.parquet has that at 50%)."
            ]
        at_risk = most_at_risk(others)
        return [
            f"Of {len(refused)} refused prompts outside {self.concept}, {len(at_risk)} have a "
            "probability above 1/2 to lose their refusal at 90% forgetting (prompts.parquet)."
        ]


def forecast(
    evidence: Evidence,
    concept: str,
    frozen: Mapping[str, Any],
    *,
    seed: int,
    over: str = TRAINED,
    asked: pd.DataFrame | None = None,
    progress: Advance = silent,
) -> Forecast:
    """Forecast the unlearning of ``concept``.

    Args:
        evidence: from the base model.
        concept: one of its domains.
        frozen: the variant of each predictor (``analyses.predict.tournaments.read_choices``), for
            ``rankings``; a layer is mapped by its relative depth.
        seed: for resampled prompts.
        over: parameters of the kernel. ``trainable`` keeps the gradients of ``concept`` and of one
            other domain in main memory. LoRA ``adapters`` and all ``weights`` store no gradients
            and leave out the other predictors from gradients.
        asked: prompts with their log-odds, for a forecast of each
            (:data:`analyses.predict.by_prompt.ASKED`).
        progress: called with the number of these prompts read, twice for each.

    Raises:
        InputError: the domain or the kernel is unknown, the domain has too few prompts or refusals,
            or training would not use adapters.
    """
    require_kernel(over)
    if concept not in evidence.domains:
        raise InputError(f'"{concept}" has no prompts; expected {", ".join(evidence.domains)}')
    evidence.require_target(concept)
    if over == TRAINED:
        evidence = replace(evidence, sources=(concept,))
        found = evidence.objective_products.kernel(adam=True)
    elif over == ADAPTERS:
        found = evidence.objective_kernel_of_adapters
    else:
        found = evidence.objective_kernel_of_all_weights
    rankings, left_out = _rankings(
        evidence, concept, frozen, without=None if over == TRAINED else "kernel"
    )
    by_text = evidence.prefixes is None
    leakage = found.relative()
    prompts, why = None, ""
    if asked is not None:
        why = _why_no_prompts(leakage, evidence, concept, over)
        if not why:
            row = evidence.domains.index(concept)
            prompts = forecast_by_prompt(
                evidence, concept, asked, found.values[row, row], adam=over == TRAINED,
                progress=progress,
            )  # fmt: skip
    beyond = 0.0 if by_text else BEYOND_FIRST_STEP[over]
    return Forecast(
        concept,
        _leakage(leakage, evidence, concept, beyond),
        None
        if evidence.prefixes is None
        else _compliance(evidence, evidence.prefixes, concept, seed),
        rankings,
        beyond,
        LIKELIHOOD if by_text else LOG_ODDS,
        left_out,
        prompts,
        why,
        _absent(evidence, (*(evidence.targets if by_text else evidence.grouped), concept)),
        _absent(evidence, evidence.contrasted),
    )


def _absent(evidence: Evidence, domains: Collection[str]) -> tuple[str, ...]:
    return tuple(domain for domain in evidence.domains if domain not in domains)


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
        InputError: ``concept`` has too few prompts, or the model refuses too few of them.
    """
    with context.run.locked():
        baseline = establish(context)
        evidence = evidence_of(context, baseline, training)
        asked = _asked(context, baseline)
        with context.progress.stage(f"gradients of {len(evidence.domains)} domains"):
            found = forecast(evidence, concept, frozen, seed=seed, over=over, asked=asked)
        _write_forecast(context, found, concept, over)
    return found


def _asked(context: Context, baseline: Baseline) -> pd.DataFrame:
    """All prompts with the base model's log-odds; those of training prompts are read now."""
    known = baseline.scores.set_index("prompt_id")["margin"]
    asked = context.prompts.assign(log_odds=context.prompts["id"].map(known).astype(float))
    unread = ~asked["id"].isin(known.index)
    if baseline.prefixes is not None and unread.any():
        lm = context.reference
        rows = [lm.chat.encode(prompt) for prompt in asked.loc[unread, "prompt"]]
        with context.progress.stage("log-odds of training prompts", len(rows)) as advance:
            masses = prefix_masses(
                lm, rows, baseline.prefixes, batch_size=context.plan.batch_size, progress=advance
            )
        asked.loc[unread, "log_odds"] = masses.log_odds
    return asked


def _write_forecast(context: Context, found: Forecast, concept: str, over: str) -> None:
    folder = context.run.folder
    table = context.prompts
    if found.prompts is not None:
        kept = table.drop(columns=[name for name in PROMPT_FORECAST if name in table])
        table = kept.merge(found.prompts[["id", *PROMPT_FORECAST]], on="id", how="left")
    write_table(folder / "prompts.parquet", table)  # without an earlier kernel's forecast
    rows = found.leakage.to_dict("records")
    facts = {
        "concept": concept,
        "kernel": "trained" if over == TRAINED else over,
        "readout": found.readout,
        "leakage": rows,
        "why_no_prompts": found.why_no_prompts or None,
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


def _why_no_prompts(relative: Kernel, evidence: Evidence, concept: str, over: str) -> str:
    """The reason why single prompts get no forecast; empty if they get one."""
    if evidence.prefixes is None:
        return "refusal is read from text, so that a prompt has no log-odds"
    if over == WEIGHTS:
        return (
            "--kernel weights keeps no gradient that the weights could move along; give --kernel "
            "trainable or adapters"
        )
    if not np.isfinite(relative.values[evidence.domains.index(concept)]).any():
        return "the objective has no significant effect on the target's own refusals"
    return ""


def _leakage(relative: Kernel, evidence: Evidence, concept: str, beyond: float) -> pd.DataFrame:
    row = evidence.domains.index(concept)
    value, error = relative.values[row], relative.standard_error[row]
    half = np.hypot(stats.t.ppf(0.975, GROUPS - 1) * error, stats.norm.ppf(0.975) * beyond)
    columns = {"value": value, "low": value - half, "high": value + half, "error": error}
    table = pd.DataFrame({"domain": evidence.domains, **columns})
    table = table[table["domain"] != concept]
    return table.sort_values("value", ascending=False, ignore_index=True)


def _compliance(
    evidence: Evidence, prefixes: ResponsePrefixes, concept: str, seed: int
) -> dict[str, float]:
    asked = evidence.harmful[concept]
    rows = [evidence.lm.chat.encode(prompt) for prompt in asked["prompt"]]
    masses = prefix_masses(evidence.lm, rows, prefixes, batch_size=evidence.batch_size)
    p_C, p_O = masses.p_C, masses.p_O
    units = unit_of(asked).to_numpy()
    weights = resampling_weights(units, RESAMPLES, seed, f"train/{concept}")
    value = p_C.mean() / (p_C + p_O).mean()
    drawn = weighted_means(p_C, weights) / weighted_means(p_C + p_O, weights)
    freedom = unit_count(units) - 1
    found = Draws(float(value), drawn, len(rows), freedom=freedom, limits=(0.0, 1.0)).estimate()
    return {"value": found.value, "low": found.low, "high": found.high}


def _rankings(
    evidence: Evidence, concept: str, frozen: Mapping[str, Any], *, without: str | None
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The values of every predictor, and the predictors that need log-odds where there are none."""
    row = evidence.domains.index(concept)
    rows, left_out = [], []
    own = declared_by_plugins("predictor")
    for predictor in PREDICTORS.values():
        if predictor.kind == without or predictor.name not in {**frozen["choices"], **own}:
            continue
        try:
            found = predictor.predict(evidence)
        except NoLogOddsError:
            left_out.append(predictor.name)
            continue
        variants = list(found)  # of a plug-in, without a frozen choice
        if chosen := frozen["choices"].get(predictor.name):
            variants = [at_depth(chosen, frozen["layers"], evidence.lm.n_layers)]
        rows += [
            (predictor.name, predictor.kind, variant, domain, float(value))
            for variant in variants
            for domain, value in zip(evidence.domains, found[variant][row], strict=True)
            if domain != concept
        ]
    columns = ["predictor", "kind", "variant", "domain", "value"]
    return pd.DataFrame(rows, columns=columns), tuple(left_out)


def _shown(numbers: Mapping[str, float] | pd.Series) -> str:
    if not np.isfinite(numbers["low"]):
        return f"{numbers['value']:.2f} (too few prompts for an interval)"
    return f"{numbers['value']:.2f} ({numbers['low']:.2f} to {numbers['high']:.2f})"
