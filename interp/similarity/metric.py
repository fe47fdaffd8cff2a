r"""Other inner products for directions: whitened, and causal.

Both are the plain inner product in other coordinates, so every comparison uses them in the same
way: ``contrast.mapped(whitening(states, classes))``.

**Whitened.** :math:`\langle r, s\rangle = r^\top \Sigma^{-1} s`: a dimension counts by how well it
separates classes, not by how much it varies. Comparing differences of means in these coordinates is
comparing the discriminants that read them.

**Causal** (Park, Choe and Veitch, *The linear representation hypothesis and the geometry of large
language models*, ICML 2024, arXiv 2311.03658). With the rows of the unembedding :math:`\gamma` and
their covariance over the vocabulary, the causal inner product of two *unembedding* directions is
:math:`\gamma^\top \mathrm{Cov}(\gamma)^{-1}\gamma'`. Directions of the residual stream live in the
dual space, where the same geometry is :math:`r^\top \mathrm{Cov}(\gamma)\, s`: the covariance, over
tokens, of the effects of the two on the logits. Its cosine is the correlation of these logit
changes. It ignores a change that adds the same number to every logit.

Limits: the causal inner product ignores all layers between the state and the unembedding. It treats
the state as if the unembedding read it directly, without the final norm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import reduce
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.statistics import centring_matrix, coordinates_of, finite, shrunk_covariance

States = Float[np.ndarray, "prompt layer d_model"]
CHUNK = 8192  # tokens of a vocabulary in float64 at a time


@dataclass(frozen=True)
class Whitening:
    r"""States times :math:`\hat\Sigma^{-1/2}`, layer by layer.

    Attributes:
        basis: orthonormal eigenvectors of the sample's covariance.
        scale: the square root of the inverse eigenvalue along each eigenvector.
        rest: the same number for every other dimension.
        shrinkage: Ledoit and Wolf's intensity.
    """

    basis: Float[np.ndarray, "layer vector d_model"]
    scale: Float[np.ndarray, "layer vector"]
    rest: Float[np.ndarray, " layer"]
    shrinkage: Float[np.ndarray, " layer"]

    def __call__(self, states: States) -> States:
        """The states in whitened coordinates.

        Raises:
            InputError: states with different layers or a different width.
        """
        states = finite(states)
        if states.shape[1:] != (len(self.basis), self.basis.shape[-1]):
            raise InputError(
                f"states of (layer, d_model) = {states.shape[1:]}; the whitening was fitted to "
                f"{(len(self.basis), self.basis.shape[-1])}"
            )
        along = np.einsum("pld,lvd->plv", states, self.basis, optimize=True)
        extra = along * (self.scale - self.rest[:, None])
        return states * self.rest[:, None] + np.einsum(
            "plv,lvd->pld", extra, self.basis, optimize=True
        )


def whitening(states: States, classes: Int[np.ndarray, " prompt"] | None = None) -> Whitening:
    """The whitening by the pooled within-class covariance, with Ledoit and Wolf's shrinkage.

    Args:
        states: if possible of prompts that the directions are not fitted to (for example benign
            prompts in the base model): a covariance from the same prompts shares their noise.
        classes: prompts of one class share a mean; one class by default.

    Raises:
        InputError: states that are not finite, or that do not vary.
    """
    states = finite(states)
    classes = np.zeros(len(states), dtype=int) if classes is None else np.asarray(classes)
    ones = np.ones(len(states))
    coordinates, axes = coordinates_of(states)
    rows = centring_matrix(classes, ones) @ coordinates
    spread = reduce(rows**2, "layer row coordinate -> layer", "sum")
    size = reduce(states**2, "prompt layer d_model -> layer", "sum")
    if (spread <= np.finfo(float).eps * size).any():
        raise InputError("states do not vary within classes, so whitening fails; give more states")
    covariance = shrunk_covariance(rows, ones, states.shape[-1])
    scale, rest = covariance.power(-0.5)
    basis = np.einsum("lvk,lvd->lkd", covariance.vectors, axes)
    return Whitening(basis, scale, rest, covariance.shrinkage)


@dataclass(frozen=True)
class CausalCoordinates:
    """Coordinates in which the plain inner product of residual directions is the causal one.

    Attributes:
        root: R with Rᵀ R = Cov(γ).
    """

    root: Float[np.ndarray, "d_model d_model"]

    def __call__(self, states: States) -> States:
        """States, or directions, in these coordinates.

        Raises:
            InputError: the width differs from the unembedding's width.
        """
        if np.shape(states)[-1] != self.root.shape[-1]:
            raise InputError(
                f"states of width {np.shape(states)[-1]} for an unembedding of width "
                f"{self.root.shape[-1]}; give the head of the same model"
            )
        return np.asarray(states, dtype=np.float64) @ self.root.T


def causal_coordinates(unembedding: Float[np.ndarray, "vocab d_model"]) -> CausalCoordinates:
    """Causal coordinates from the weights of the LM head, one row per token.

    Raises:
        InputError: the unembedding is not a matrix, or not finite.
    """
    rows = np.asarray(unembedding)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise InputError(
            f"an unembedding of shape {rows.shape}; expected finite (vocabulary, d_model)"
        )
    mean = rows.mean(axis=0, dtype=np.float64)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for start in range(0, len(rows), CHUNK):
        centred = rows[start : start + CHUNK] - mean
        covariance += centred.T @ centred / len(rows)
    variances, axes = np.linalg.eigh(covariance)
    return CausalCoordinates(np.sqrt(variances.clip(min=0))[:, None] * axes.T)
