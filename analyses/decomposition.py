"""Is leakage a matter of the source, of the target, or of the two together?

    X[a,b] = μ + α_a + γ_b + δ_ab        least squares over a ≠ b, Σα = Σγ = 0

α is potency (a source that takes much with it), γ susceptibility (a domain that is lost
whatever is unlearned), δ entanglement, the part that belongs to the pair. Missing cells are
allowed. The shares of potency and susceptibility average the two orders of entry, because
without the diagonal they are not orthogonal; with δ they add to 1.

Noise in the cells looks like δ. With replicates (unlearning seeds) its share is measured within
cells and taken out of all three, so that δ's share is 0 on average when there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import InputError


@dataclass(frozen=True)
class Decomposition:
    """Effects, and the shares of the variance over cells.

    `noise` and `p_value` (F test of δ against the replicates) are NaN without replicates, and
    then noise is counted in `entanglement_share`.
    """

    mean: float
    potency: Mapping[str, float]
    susceptibility: Mapping[str, float]
    entanglement: pd.DataFrame
    potency_share: float
    susceptibility_share: float
    entanglement_share: float
    noise_share: float
    p_value: float


def _explained(design: Float[np.ndarray, "cell term"], x: Float[np.ndarray, " cell"]) -> float:
    fitted = design @ np.linalg.lstsq(design, x, rcond=None)[0]
    return float(((fitted - x.mean()) ** 2).sum())


def decompose(cells: pd.DataFrame) -> Decomposition:
    """Decomposes `cells` (`source, target, value`; several rows of one cell are replicates).

    Rows with source = target or no value are left out. Raises `InputError` when the cells leave
    no freedom for δ (fewer than three sources or targets, or too many holes).
    """
    from scipy.special import fdtrc

    kept = cells[(cells["source"] != cells["target"]) & cells["value"].notna()]
    groups = kept.groupby(["source", "target"])["value"]
    table = groups.agg(["mean", "size", "var"]).reset_index()
    x = table["mean"].to_numpy(dtype=np.float64)
    sources, targets = sorted(set(table["source"])), sorted(set(table["target"]))
    a = (table["source"].to_numpy()[:, None] == np.array(sources)).astype(np.float64)
    b = (table["target"].to_numpy()[:, None] == np.array(targets)).astype(np.float64)
    one = np.ones((len(x), 1))
    full = np.hstack([one, a, b])
    rank = int(np.linalg.matrix_rank(full))
    freedom = len(x) - rank
    if freedom < 1 or len(sources) < 2 or rank < len(sources) + len(targets) - 1:
        raise InputError(
            f"{len(sources)} sources, {len(targets)} targets and {len(x)} cells leave nothing to "
            "tell potency, susceptibility and entanglement apart; unlearn more domains"
        )

    # Sum-to-zero effects: the least-squares solution under two extra exact rows.
    held = np.zeros((2, full.shape[1]))
    held[0, 1 : 1 + len(sources)] = held[1, 1 + len(sources) :] = 1
    stacked, aim = np.vstack([full, held]), np.concatenate([x, np.zeros(2)])
    solution = np.linalg.lstsq(stacked, aim, rcond=None)[0]
    delta = x - full @ solution

    total = float(((x - x.mean()) ** 2).sum())
    both = _explained(full, x)
    alone_a, alone_b = (_explained(np.hstack([one, part]), x) for part in (a, b))
    squares = {
        "potency": (alone_a + both - alone_b) / 2,
        "susceptibility": (alone_b + both - alone_a) / 2,
        "entanglement": float((delta**2).sum()),
    }
    noise, p_value = math.nan, math.nan
    repeated = table["size"].to_numpy()
    within = int((repeated - 1).sum())
    if within > 0:
        spread = float((table["var"].fillna(0) * (repeated - 1)).sum()) / within
        per_cell = spread * float((1 / repeated).mean())  # variance of a cell's mean
        freedoms = (len(sources) - 1, len(targets) - 1, freedom)
        squares = {
            name: value - df * per_cell
            for (name, value), df in zip(squares.items(), freedoms, strict=True)
        }
        noise = per_cell * (len(x) - 1)
        ratio = float((delta**2).sum()) / freedom / per_cell if per_cell > 0 else math.inf
        p_value = float(fdtrc(freedom, within, ratio))
    shares = {name: value / total if total > 0 else math.nan for name, value in squares.items()}
    return Decomposition(
        mean=float(solution[0]),
        potency=dict(zip(sources, solution[1 : 1 + len(sources)].tolist(), strict=True)),
        susceptibility=dict(zip(targets, solution[1 + len(sources) :].tolist(), strict=True)),
        entanglement=table[["source", "target"]].assign(value=delta),
        potency_share=shares["potency"],
        susceptibility_share=shares["susceptibility"],
        entanglement_share=shares["entanglement"],
        noise_share=noise / total if total > 0 else math.nan,
        p_value=p_value,
    )
