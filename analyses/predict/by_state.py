"""Predictors from the base model's states: the similarity of two domains' representations.

States are those of the last prompt token after each layer. Each predictor has a variant per layer.
Domains without a contrast have NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

import numpy as np
from jaxtyping import Float

from analyses.predict.evidence import Evidence
from analyses.predict.registry import Predictions, over_domains, predictor
from interp.directions import mean_difference
from interp.model import head_weights
from interp.similarity import causal_coordinates, whitening
from interp.statistics import Contrast

Contrasts = Mapping[str, Contrast]
Coordinates = Callable[[np.ndarray], np.ndarray]
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

    def coordinates(contrasts: Contrasts) -> Coordinates:
        benign = [contrast.negative for contrast in contrasts.values()]
        domain = np.repeat(np.arange(len(benign)), [len(states) for states in benign])
        return whitening(np.concatenate(benign), domain)

    return _in_coordinates(evidence, coordinates)


@predictor(
    "causal cosine", "geometry", paper="Park et al. 2024, arXiv 2311.03658", badge="faithful"
)
def causal_cosine(evidence: Evidence) -> Predictions:
    """The same in the causal inner product: how similarly two differences change the logits."""
    head = head_weights(evidence.lm.model, evidence.lm.d_model)
    coordinates = causal_coordinates(head.float().cpu().numpy())
    return _in_coordinates(evidence, lambda _contrasts: coordinates)


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
    def matrices(contrasts: Contrasts) -> Iterator[np.ndarray]:
        for layer in range(evidence.lm.n_layers):
            harmful = {d: c.positive[:, layer].astype(np.float64) for d, c in contrasts.items()}
            benign = {d: c.negative[:, layer].astype(np.float64) for d, c in contrasts.items()}
            yield matrix(harmful, benign)

    return _over_layers(evidence, matrices)


def _in_coordinates(
    evidence: Evidence, coordinates: Callable[[Contrasts], Coordinates]
) -> dict[str, np.ndarray]:
    """Cosines of the mean differences in other coordinates, for each layer."""

    def matrices(contrasts: Contrasts) -> Iterator[np.ndarray]:
        differences = [mean_difference(c.positive, c.negative) for c in contrasts.values()]
        return map(_cosines, coordinates(contrasts)(np.array(differences)).swapaxes(0, 1))

    return _over_layers(evidence, matrices)


def _over_layers(
    evidence: Evidence, matrices: Callable[[Contrasts], Iterable[np.ndarray]]
) -> dict[str, np.ndarray]:
    """Each layer's matrix of the domains with a contrast, as one of all domains."""
    contrasts = evidence.contrasts
    found = matrices(contrasts) if contrasts else [np.empty((0, 0))] * evidence.lm.n_layers
    return {
        f"layer {layer}": over_domains(evidence.domains, list(contrasts), values)
        for layer, values in enumerate(found)
    }


def _differences(harmful: Mapping[str, States], benign: Mapping[str, States]) -> Vectors:
    return np.array([mean_difference(harmful[d], benign[d]) for d in harmful])


def _cosines(vectors: Vectors) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.maximum(lengths, np.finfo(float).tiny)
    return units @ units.T
