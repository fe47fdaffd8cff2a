r"""Are the probabilities to flip right? Calibration on prompts that no parameter was fitted to.

Three probabilities are compared on the refused test prompts of an arm:

* *before training* (``probability``): of :mod:`analyses.predict.by_prompt`. Its error was frozen on
  development model organisms, so no prompt of this model has a part in it.
* *recalibrated*: needs the trained arm. With z = Φ⁻¹(probability), it is Φ(α + e^λ z), where α and
  λ are fitted to the arm's validation prompts of the OTHER domains: neither the prompt nor its
  domain has a part in it. α and λ have unit normal priors, so an arm without such prompts keeps the
  probability before training.
* *base rate*: the share of the arm's refused validation prompts, of all domains, that flipped.

The Brier score is the mean squared difference of probability and outcome. ECE is the mean distance
of a bin's mean probability from the share that flipped, weighted by its prompts; with few prompts
in a bin it is above 0 for true probabilities too.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import optimize, special

from analyses.predict.by_prompt import ERROR, FORECAST
from interp.statistics import mean_of, share_of

BINS = (0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)
PRIOR = 1.0  # standard deviation of α and of λ
BEFORE, RECALIBRATED, BASE_RATE = "probability", "recalibrated", "base rate"
KINDS = {BEFORE: "before training", RECALIBRATED: "recalibrated", BASE_RATE: "base rate"}

Values = Float[np.ndarray, " prompt"]


def with_recalibrated(asked: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """``asked`` with ``recalibrated`` and ``base rate``, learned from ``known``.

    Args:
        asked, known: rows of :func:`analyses.predict.prompt_skill.judged` of one arm and level;
            ``known`` of its validation prompts.
    """
    z, z_known = _distance(asked), _distance(known)
    flipped = known["flipped"].to_numpy(dtype=bool)
    found = np.full(len(asked), np.nan)
    for domain in asked["domain"].unique():
        others = (known["domain"] != domain).to_numpy() & np.isfinite(z_known)
        shift, scale = fitted_calibration(z_known[others], flipped[others])
        here = (asked["domain"] == domain).to_numpy()
        found[here] = special.ndtr(shift + scale * z[here])
    rate = flipped.mean() if len(flipped) else np.nan
    return asked.assign(**{RECALIBRATED: found, BASE_RATE: rate})


def fitted_calibration(z: Values, flipped: Bool[np.ndarray, " prompt"]) -> tuple[float, float]:
    """α and e^λ of Φ(α + e^λ z) with the largest posterior density; 0 and 1 without prompts."""

    def loss(parameters: np.ndarray) -> float:
        shift, scale = parameters
        told = shift + np.exp(scale) * z
        fit = special.log_ndtr(np.where(flipped, told, -told)).sum()
        return float(0.5 * (parameters**2).sum() / PRIOR**2 - fit)

    shift, scale = optimize.minimize(loss, np.zeros(2), method="Nelder-Mead").x
    return float(shift), float(np.exp(scale))


def calibration(prompts: pd.DataFrame) -> pd.DataFrame:
    """The share that flipped by level, kind and bin of the probability, with an interval.

    ``told`` is the mean probability in the bin. The interval covers the sampling of prompts; a
    prompt counts once, however many arms it is in (``unit``).
    """
    rows = []
    for kind in (BEFORE, RECALIBRATED):
        told = prompts.dropna(subset=[kind])
        place = _bins_of(told[kind])
        for level, k in product(told["level"].unique(), np.unique(place)):
            part = told[(told["level"] == level) & (place == k)]
            if part.empty:
                continue
            found = share_of(part["flipped"].to_numpy(), part["unit"].to_numpy())
            rows.append(
                {
                    "level": level, "kind": kind, "from": BINS[k], "to": BINS[k + 1],
                    "told": float(part[kind].mean()), "value": found.value,
                    "low": found.low, "high": found.high, "n": found.n,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def reliability_table(prompts: pd.DataFrame) -> pd.DataFrame:
    """Brier score (``value``, 95% interval over prompts) and ``ece`` by arm, level and kind."""
    rows = []
    for (arm, level), part in prompts.groupby(["arm", "level"], sort=False):
        for kind in KINDS:
            told = part.dropna(subset=[kind])
            outcome = told["flipped"].to_numpy(dtype=np.float64)
            squared = (told[kind].to_numpy(dtype=np.float64) - outcome) ** 2
            found = mean_of(squared, told["unit"].to_numpy(), limits=(0.0, 1.0))
            rows.append(
                {
                    "arm": arm, "level": level, "kind": kind, "n": len(told),
                    "flipped": int(outcome.sum()), "value": found.value,
                    "low": found.low, "high": found.high, "ece": expected_error(told, kind),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def expected_error(told: pd.DataFrame, kind: str) -> float:
    """The expected calibration error; NaN without prompts."""
    if told.empty:
        return float("nan")
    parts = told.groupby(_bins_of(told[kind]))
    apart = (parts[kind].mean() - parts["flipped"].mean()).abs()
    return float((apart * parts.size()).sum() / len(told))


def _bins_of(told: pd.Series) -> np.ndarray:
    return np.clip(np.digitize(told, BINS) - 1, 0, len(BINS) - 2)


def _distance(prompts: pd.DataFrame) -> Values:
    """z: the predicted log-odds in standard deviations of their error, positive for a flip."""
    error = np.hypot(ERROR["nats"], ERROR["share"] * prompts["nats"].to_numpy(dtype=np.float64))
    return np.asarray(prompts[FORECAST].to_numpy(dtype=np.float64) / error)
