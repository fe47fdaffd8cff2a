"""Predictors from gradients: the effect of a step on one domain on another's log-odds.

In the literature these are first-order influences: TracIn (Pruthi et al. 2020, arXiv 2002.08484)
at one checkpoint, between a loss and a readout; with Adam's diagonal as in LESS (Xia et al. 2024,
arXiv 2402.04333). Gradient ascent and NPO begin with the same gradient, so the prediction is that
losses that begin with the same gradient leak alike at equal forgetting level.
"""

from __future__ import annotations

import re

import numpy as np

from analyses.predict.evidence import Evidence
from analyses.predict.products import GroupProducts, Within
from analyses.predict.registry import Predictions, predictor
from interp.directions import mean_difference

ATTENTION = re.compile(r"attn|attention")


@predictor("margin kernel", "kernel", title="log-odds kernel")
def log_odds_kernel(evidence: Evidence) -> Predictions:
    """⟨P ∇m_a, ∇m_b⟩."""
    return _variants(evidence, evidence.log_odds_products)


@predictor("objective kernel", "kernel")
def objective_kernel(evidence: Evidence) -> Predictions:
    """⟨P ∇S_a, ∇m_b⟩: the effect of the objective's first step.

    Without log-odds, S_b takes the place of m_b.
    """
    return _variants(evidence, evidence.objective_products)


@predictor("decision angle", "geometry")
def decision_angle(evidence: Evidence) -> Predictions:
    """Cosine between a's mean difference and the residual-stream gradient of b's log-odds.

    NaN for a source without a contrast.
    """
    found = {}
    contrasts = evidence.contrasts.items()
    directions = {d: mean_difference(c.positive, c.negative) for d, c in contrasts}
    none = np.full((evidence.lm.n_layers, evidence.lm.d_model), np.nan)
    for layer in range(evidence.lm.n_layers):
        r = np.array([directions.get(d, none)[layer] for d in evidence.domains])
        g = np.array([evidence.log_odds_by_state[d][layer] for d in evidence.domains])
        lengths = np.linalg.norm(r, axis=1)[:, None] * np.linalg.norm(g, axis=1)
        found[f"layer {layer}"] = r @ g.T / np.maximum(lengths, np.finfo(float).tiny)
    return found


def _variants(evidence: Evidence, products: GroupProducts) -> Predictions:
    """K raw, divided by K[a,a], with Adam's diagonal, as a cosine; and by layer and module."""
    plain, adam = products.kernel(), products.kernel(adam=True)
    found = {
        "raw": plain.values,
        "relative": plain.relative().values,
        "Adam": adam.values,
        "Adam, relative": adam.relative().values,
        "cosine": products.cosine(),
    }
    for name, within in _parts(evidence.lm.n_layers).items():
        found[f"{name}, raw"] = products.kernel(within=within).values
        found[f"{name}, cosine"] = products.cosine(within=within)
    return found


def _parts(layers: int) -> dict[str, Within]:
    """Which parameters belong to each layer, to attention and to the MLPs, by their names."""

    def in_layer(layer: int) -> Within:
        return lambda name: f".{layer}." in name

    found = {f"layer {layer}": in_layer(layer) for layer in range(layers)}
    found["attention"] = lambda name: bool(ATTENTION.search(name))
    found["MLP"] = lambda name: not ATTENTION.search(name)
    return found
