"""Predictors from the base model's states: the similarity of two domains' representations.

States are those of the last prompt token after each layer. Each predictor has a variant per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from jaxtyping import Float

from analyses.predict.evidence import Evidence
from analyses.predict.registry import Predictions, predictor
from interp.directions import mean_difference
from interp.model import head_weights
from interp.similarity import causal_coordinates, whitening
from interp.statistics import Contrast

States = Float[np.ndarray, "prompt d_model"]
Vectors = Float[np.ndarray, "domain d_model"]
SUBSPACE_DIMENSIONS = (2, 4, 8)


@predictor("mean-difference cosine", "geometry")
def mean_difference_cosine(evidence: Evidence) -> Predictions:
    """Cosine between the mean differences (harmful less control) of two domains."""
    return _each_layer(evidence, lambda harmful, benign: _cosines(_differences(harmful, benign)))


@predictor("whitened cosine", "geometry")
def whitened_cosine(evidence: Evidence) -> Predictions:
    """The same after whitening by the controls' pooled covariance (Ledoit–Wolf)."""
    benign = [contrast.negative for contrast in evidence.contrasts.values()]
    domain = np.repeat(np.arange(len(benign)), [len(states) for states in benign])
    return _in_coordinates(evidence, whitening(np.concatenate(benign), domain))


@predictor(
    "causal cosine", "geometry", paper="Park et al. 2024, arXiv 2311.03658", badge="faithful"
)
def causal_cosine(evidence: Evidence) -> Predictions:
    """The same in the causal inner product: how similarly two differences change the logits."""
    head = head_weights(evidence.lm.model, evidence.lm.d_model)
    return _in_coordinates(evidence, causal_coordinates(head.float().cpu().numpy()))


@predictor(
    "PC1 (the paper's R3)",
    "geometry",
    paper="Mushtaq et al. 2025, arXiv 2511.14017",
    badge="faithful",
)
def first_component(evidence: Evidence) -> Predictions:
    """Mean over b's prompts of the cosine between c_a and the state h_b; directed.

    c_a is the first principal component of a's centred harmful states, signed so that their mean
    lies on its positive side. One variant is uncentred, as in the paper; one subtracts the grand
    mean.
    """
    kinds = {"uncentred": 0.0, "centred": 1.0}
    return {
        f"{name}, {layer}": values
        for name, share in kinds.items()
        for layer, values in _each_layer(evidence, partial(_on_components, centred=share)).items()
    }


def _on_components(
    harmful: Mapping[str, States], _benign: Mapping[str, States], centred: float
) -> np.ndarray:
    grand = np.mean([states.mean(axis=0) for states in harmful.values()], axis=0)
    components, units = [], []
    for states in (states - grand * centred for states in harmful.values()):
        mean = states.mean(axis=0)
        component = np.linalg.svd(states - mean, full_matrices=False)[2][0]
        components.append(component * (1 if component @ mean >= 0 else -1))
        lengths = np.linalg.norm(states, axis=1, keepdims=True)
        units.append((states / np.maximum(lengths, 1e-30)).mean(axis=0))
    return np.array(components) @ np.array(units).T


@predictor("subspace overlap", "geometry")
def principal_subspace_overlap(evidence: Evidence) -> Predictions:
    """‖U_aᵀU_b‖²_F / k of the leading principal subspaces of the centred harmful states.

    The states of n prompts have at most n − 1 dimensions; the smaller subspace's replaces k.
    """
    return {
        f"k = {k}, {layer}": values
        for k in SUBSPACE_DIMENSIONS
        for layer, values in _each_layer(evidence, partial(_overlaps, k=k)).items()
    }


def _overlaps(harmful: Mapping[str, States], _benign: Mapping[str, States], k: int) -> np.ndarray:
    bases = []
    for states in harmful.values():
        kept = min(k, len(states) - 1)  # centring leaves one dimension fewer than prompts
        bases.append(np.linalg.svd(states - states.mean(axis=0), full_matrices=False)[2][:kept])
    return np.array([[((a @ b.T) ** 2).sum() / min(len(a), len(b)) for b in bases] for a in bases])


@predictor("projection difference", "geometry")
def projection_difference(evidence: Evidence) -> Predictions:
    """Distance of b's harmful prompts from its controls along a's unit direction; directed."""

    def matrix(harmful: Mapping[str, States], benign: Mapping[str, States]) -> np.ndarray:
        differences = _differences(harmful, benign)
        lengths = np.linalg.norm(differences, axis=1, keepdims=True)
        return differences / np.maximum(lengths, 1e-30) @ differences.T

    return _each_layer(evidence, matrix)


def _each_layer(
    evidence: Evidence, matrix: Callable[[Mapping[str, States], Mapping[str, States]], np.ndarray]
) -> dict[str, np.ndarray]:
    contrasts: Mapping[str, Contrast] = evidence.contrasts
    found = {}
    for layer in range(evidence.lm.n_layers):
        harmful = {d: c.positive[:, layer].astype(np.float64) for d, c in contrasts.items()}
        benign = {d: c.negative[:, layer].astype(np.float64) for d, c in contrasts.items()}
        found[f"layer {layer}"] = matrix(harmful, benign)
    return found


def _in_coordinates(
    evidence: Evidence, coordinates: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    """Cosines of the mean differences in other coordinates, for each layer."""
    differences = coordinates(
        np.array([mean_difference(c.positive, c.negative) for c in evidence.contrasts.values()])
    )
    return {
        f"layer {layer}": _cosines(differences[:, layer]) for layer in range(differences.shape[1])
    }


def _differences(harmful: Mapping[str, States], benign: Mapping[str, States]) -> Vectors:
    return np.array([mean_difference(harmful[d], benign[d]) for d in harmful])


def _cosines(vectors: Vectors) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, np.finfo(float).tiny)
    return units @ units.T
