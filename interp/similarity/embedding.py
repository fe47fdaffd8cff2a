"""Two-dimensional maps of states: PCA and optional UMAP, each with a neighbour-agreement score.

A two-dimensional map can mislead. UMAP draws clusters in noise, and its distances and gaps have no
meaning. The figure therefore also shows PCA and the share of variance that PCA keeps. It reports
how often a state's nearest neighbours carry its label: in all dimensions, in each map, and with
permuted labels. States of one group are never neighbours, and permuted labels stay together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from interp.errors import InputError
from interp.statistics import finite, permuted_labels, unit_numbers

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FEWEST_STATES = 8
PERMUTATIONS = 200


@dataclass(frozen=True)
class StateMap:
    """States of one layer in two dimensions.

    Attributes:
        labels: of the states.
        pca: projections on the first two principal components.
        explained: the two components' shares of variance.
        umap: UMAP coordinates, which have no units, or None.
        agreement: share of nearest neighbours of other groups that carry the same label as a state;
            by ``"all dimensions"``, ``"PCA"``, ``"UMAP"``, and ``"labels permuted"`` (the 95th
            percentile in all dimensions).
        neighbours: number of nearest neighbours per state.
    """

    labels: tuple[str, ...]
    pca: Float[np.ndarray, "state 2"]
    explained: tuple[float, float]
    umap: Float[np.ndarray, "state 2"] | None
    agreement: dict[str, float]
    neighbours: int

    def to_dataframe(self) -> pd.DataFrame:
        """One row per state."""
        import pandas as pd

        columns: dict[str, object] = {
            "label": self.labels,
            "pca_1": self.pca[:, 0],
            "pca_2": self.pca[:, 1],
        }
        if self.umap is not None:
            columns |= {"umap_1": self.umap[:, 0], "umap_2": self.umap[:, 1]}
        return pd.DataFrame(columns)

    def plot(self, *, interactive: bool = False) -> Figure | Any:
        """Draw the maps side by side, with the agreement scores below.

        With ``interactive``, a Plotly figure with a slider over the maps.
        """
        from interp.figures import interactive_points, state_map_figure

        if not interactive:
            return state_map_figure(self)
        maps = {"PCA": ("pca_1", "pca_2")}
        if self.umap is not None:
            maps["UMAP (distances have no meaning)"] = ("umap_1", "umap_2")
        return interactive_points(self.to_dataframe(), maps)


def state_map(
    states: Float[np.ndarray, "state d_model"],
    labels: Sequence[str],
    *,
    groups: Sequence[object] | None = None,
    umap: bool = False,
    neighbours: int = 10,
    seed: int = 0,
) -> StateMap:
    """Map the states of one layer.

    Args:
        states: one row per prompt.
        labels: one per state.
        groups: of states that belong together (copies, a matched pair), as for
            :class:`~interp.statistics.Contrast`.
        umap: also draw UMAP; its first use takes half a minute.
        neighbours: number of neighbours of each state, also for UMAP.
        seed: of UMAP and of the permutations.

    Raises:
        InputError: fewer than eight states, no neighbours (with UMAP: fewer than two), too few
            states of other groups for the number of neighbours, or a different number of labels.
    """
    rows = finite(np.asarray(states))
    if rows.shape[1] != 1:
        raise InputError(f"states of {rows.shape[1]} layers; a map shows one")
    rows = rows[:, 0] - rows[:, 0].mean(axis=0)
    if len(labels) != len(rows):
        raise InputError(f"{len(labels)} labels for {len(rows)} states; give one for each")
    fewest = 2 if umap else 1  # UMAP has no graph of one neighbour
    if neighbours < fewest:
        raise InputError(f"{neighbours} neighbours; a map needs {fewest} or more")
    units = unit_numbers(groups, len(rows))
    largest = int(np.bincount(units).max(initial=1))
    fewest = largest + max(FEWEST_STATES - 1, neighbours)
    if len(rows) < fewest:
        raise InputError(
            f"{len(rows)} states, at most {largest} of one group; a map with {neighbours} "
            f"neighbours needs {fewest} or more"
        )
    left, sizes, _ = np.linalg.svd(rows, full_matrices=False)
    pca = left[:, :2] * sizes[:2]
    share = sizes**2 / max(float(np.sum(sizes**2)), np.finfo(float).tiny)
    names, codes = np.unique(np.array([str(label) for label in labels]), return_inverse=True)
    near = _nearest(rows, units, neighbours)
    drawn = permuted_labels(codes, units, PERMUTATIONS, np.random.default_rng(seed))
    permuted = [_agreement(near, one) for one in drawn]
    maps = {"PCA": pca} | ({"UMAP": _umap(rows, neighbours, seed)} if umap else {})
    agreement = {"all dimensions": _agreement(near, codes)}
    for name, places in maps.items():
        agreement[name] = _agreement(_nearest(places, units, neighbours), codes)
    agreement["labels permuted"] = float(np.quantile(permuted, 0.95))
    return StateMap(
        labels=tuple(str(names[code]) for code in codes),
        pca=pca,
        explained=(float(share[0]), float(share[1])),
        umap=maps.get("UMAP"),
        agreement=agreement,
        neighbours=neighbours,
    )


def _umap(rows: Float[np.ndarray, "state d_model"], neighbours: int, seed: int) -> np.ndarray:
    import warnings

    from umap import UMAP  # takes twenty seconds, so it is imported only here

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP warns that a seed means one thread
        found = UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(rows)
    return np.asarray(found, dtype=np.float64)


def _nearest(
    rows: Float[np.ndarray, "state axis"], units: Int[np.ndarray, " state"], neighbours: int
) -> Int[np.ndarray, "state neighbour"]:
    squared = (rows**2).sum(axis=1)
    distance = squared[:, None] + squared[None, :] - 2 * rows @ rows.T
    distance[units[:, None] == units] = np.inf
    return np.argpartition(distance, neighbours - 1, axis=1)[:, :neighbours]


def _agreement(near: Int[np.ndarray, "state neighbour"], codes: Int[np.ndarray, " state"]) -> float:
    return float((codes[near] == codes[:, None]).mean())
