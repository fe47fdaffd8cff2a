r"""Means per label and one pooled covariance, streamed: memory does not depend on how many prompts.

With :math:`n_g` prompts in a group (a label at a position) and :math:`m_g` their mean, the pooled
within-label covariance of a layer is

.. math:: \Sigma = \frac{1}{\sum_g (n_g - 1)} \sum_g \sum_{i \in g} (x_i - m_g)(x_i - m_g)^\top .

Everything is summed in float64, around means that are updated as data comes (Welford 1962; for
blocks and for merging, Chan, Golub and LeVeque 1983): sums of squares around zero lose all digits
where a mean is large against its spread, as it is in a residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError


@dataclass(frozen=True)
class Moments:
    """What remains of the states of many prompts.

    Attributes:
        labels: in the order in which they first came.
        layers: 0-based decoder layers.
        counts: prompts behind each mean. Positions are aligned at their ends, so prompts with few
            positions count only in the last ones.
        means: NaN where there was no prompt.
        covariance: pooled within label and position, unbiased; NaN where no group has two prompts.
        label_covariances: the same for each label alone; only if asked for.
    """

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    counts: Int[np.ndarray, "label position"]
    means: Float[np.ndarray, "label layer position d_model"]
    covariance: Float[np.ndarray, "layer d_model d_model"]
    label_covariances: Float[np.ndarray, "label layer d_model d_model"] | None = None

    def mean(self, label: str) -> Float[np.ndarray, "layer position d_model"]:
        """The mean state of one label's prompts.

        Raises:
            InputError: no prompt had that label.
        """
        if label not in self.labels:
            raise InputError(f"no prompts labelled {label!r}; there are {', '.join(self.labels)}")
        return self.means[self.labels.index(label)]


class MomentsAccumulator:
    """Takes states block by block.

    Args:
        label_covariances: keep a covariance for every label and layer as well.
    """

    def __init__(self, *, label_covariances: bool = False) -> None:
        self.label_covariances = label_covariances
        self._scatter: Float[np.ndarray, "layer d_model d_model"] = np.empty((0, 0, 0))
        self._groups: dict[str, _Group] = {}

    def update(
        self, states: Float[np.ndarray, "prompt layer position d_model"], labels: Sequence[str]
    ) -> MomentsAccumulator:
        """Take a block of prompts into account; a position that a prompt lacks is NaN throughout.

        Raises:
            InputError: shapes that do not fit each other or what came before.
        """
        if states.ndim != 4 or len(states) != len(labels):
            raise InputError(
                f"states of shape {states.shape} with {len(labels)} labels; expected "
                "(prompt, layer, position, d_model) and a label for every prompt"
            )
        self._make_room(states.shape[1:], labels)
        states = _aligned(states, self._positions)
        names = np.asarray(labels, dtype=object)
        rows = {label: np.flatnonzero(names == label) for label in dict.fromkeys(labels)}
        present = ~np.isnan(states[:, 0, :, 0])
        block = {label: _Group.empty(states.shape[1:]) for label in rows}
        for label, group in block.items():
            group.counts = present[rows[label]].sum(axis=0)
        # Layer by layer: one layer's states in float64 are all that is held beside the moments.
        for layer in range(states.shape[1]):
            centred = np.where(present[:, :, None], states[:, layer].astype(np.float64), 0.0)
            shifts = []
            for label, group in block.items():
                mine, there = centred[rows[label]], present[rows[label], :, None]
                mean = mine.sum(axis=0) / np.maximum(group.counts, 1)[:, None]
                centred[rows[label]] = np.where(there, mine - mean, 0.0)
                group.means[layer] = mean
                shifts.append(self._groups[label].shift(group, layer))
                own = self._groups[label].scatter
                if own is not None:
                    own[layer] += _scatter(centred[rows[label]], shifts[-1])
            self._scatter[layer] += _scatter(centred, *shifts)
        for label, group in block.items():
            self._groups[label].absorb(group)
        return self

    def merge(self, other: MomentsAccumulator) -> MomentsAccumulator:
        """Take everything into account that ``other`` has seen, as if it had been seen here.

        Raises:
            InputError: other layers or another width, or no covariances of single labels to add.
        """
        if not other._groups:
            return self
        if self.label_covariances and not other.label_covariances:
            raise InputError("the moments to be merged hold no covariances of single labels")
        layers, _, d_model = next(iter(other._groups.values())).means.shape
        self._make_room((layers, other._positions, d_model), list(other._groups))
        theirs = {label: g.widened(self._positions) for label, g in other._groups.items()}
        for layer in range(layers):
            self._scatter[layer] += other._scatter[layer]
            for label, group in theirs.items():
                mine = self._groups[label]
                shift = _scatter(mine.shift(group, layer))
                self._scatter[layer] += shift
                if mine.scatter is not None and group.scatter is not None:
                    mine.scatter[layer] += group.scatter[layer] + shift
        for label, group in theirs.items():
            self._groups[label].absorb(group)
        return self

    def result(self, layers: Sequence[int] | None = None) -> Moments:
        """The moments so far.

        Args:
            layers: numbers to write beside the layers; 0, 1, 2 … if not given.

        Raises:
            InputError: nothing has been seen.
        """
        if not self._groups:
            raise InputError("no states so far; give at least one prompt")
        groups = self._groups.values()
        counts = np.array([group.counts for group in groups])
        means = np.array([group.means for group in groups])
        means[np.broadcast_to((counts == 0)[:, None, :, None], means.shape)] = np.nan
        of_labels = None
        if self.label_covariances:
            of_labels = np.array(
                [_unbiased(g.scatter, g.counts) for g in groups if g.scatter is not None]
            )
        return Moments(
            tuple(self._groups),
            tuple(range(len(self._scatter)) if layers is None else layers),
            counts,
            means,
            _unbiased(self._scatter, counts),
            of_labels,
        )

    @property
    def _positions(self) -> int:
        return max((group.positions for group in self._groups.values()), default=0)

    def _make_room(self, shape: tuple[int, ...], labels: Sequence[str]) -> None:
        """For labels that are new, and for positions that no prompt had before."""
        layers, positions, d_model = shape
        if not self._groups:
            self._scatter = np.zeros((layers, d_model, d_model))
        if self._scatter.shape != (layers, d_model, d_model):
            raise InputError(
                f"states of {layers} layers and width {d_model} after {len(self._scatter)} layers "
                f"of width {self._scatter.shape[-1]}; moments are of one model and one choice "
                "of layers"
            )
        most = max(positions, self._positions)
        for label in dict.fromkeys([*self._groups, *labels]):
            if label not in self._groups:
                group = _Group.empty((layers, most, d_model))
                if self.label_covariances:
                    group.scatter = np.zeros((layers, d_model, d_model))
                self._groups[label] = group
            self._groups[label] = self._groups[label].widened(most)


@dataclass
class _Group:
    """Counts and means of one label's prompts, at every position and layer."""

    counts: Int[np.ndarray, " position"]
    means: Float[np.ndarray, "layer position d_model"]
    scatter: Float[np.ndarray, "layer d_model d_model"] | None = None

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> _Group:
        return cls(np.zeros(shape[1], dtype=np.int64), np.zeros(shape))

    @property
    def positions(self) -> int:
        return len(self.counts)

    def widened(self, positions: int) -> _Group:
        """With room for ``positions``, the new ones in front."""
        new = positions - self.positions
        if new <= 0:
            return self
        means = np.pad(self.means, ((0, 0), (new, 0), (0, 0)))
        return _Group(np.pad(self.counts, (new, 0)), means, self.scatter)

    def shift(self, other: _Group, layer: int) -> Float[np.ndarray, "position d_model"]:
        """Rows whose scatter is what two means being apart adds to the scatter of the union."""
        both = np.maximum(self.counts + other.counts, 1)
        weight = np.sqrt(self.counts * other.counts / both)
        return weight[:, None] * (other.means[layer] - self.means[layer])

    def absorb(self, other: _Group) -> None:
        share = other.counts / np.maximum(self.counts + other.counts, 1)
        self.means += share[:, None] * (other.means - self.means)
        self.counts = self.counts + other.counts


def _aligned(
    states: Float[np.ndarray, "prompt layer position d_model"], positions: int
) -> Float[np.ndarray, "prompt layer position d_model"]:
    """With room for ``positions``, the new ones in front and nothing in them."""
    new = positions - states.shape[2]
    if not new:
        return states
    return np.pad(states, ((0, 0), (0, 0), (new, 0), (0, 0)), constant_values=np.nan)


def _scatter(*rows: Float[np.ndarray, "*rows d_model"]) -> Float[np.ndarray, "d_model d_model"]:
    flat = np.concatenate([part.reshape(-1, part.shape[-1]) for part in rows])
    return flat.T @ flat


def _unbiased(
    scatter: Float[np.ndarray, "layer d_model d_model"], counts: Int[np.ndarray, "*groups"]
) -> Float[np.ndarray, "layer d_model d_model"]:
    freedom = int(np.maximum(counts - 1, 0).sum())
    return scatter / freedom if freedom else np.full_like(scatter, np.nan)
