r"""Intervention transfer: what the edit of one group's direction does to another group's behaviour.

For groups a and b, with the mean readouts :math:`m^+_b` and :math:`m^-_b` of the unchanged model on
b's positives and negatives:

.. math::
    \mathrm{removed}_{ab} = \frac{m^+_b - m^+_b(\text{a's component set to its mean})}
    {m^+_b - m^-_b}, \qquad
    \mathrm{induced}_{ab} = \frac{m^-_b(\text{a's difference added}) - m^-_b}{m^+_b - m^-_b}

1 is the whole gap between the two kinds of prompts. The edits are those of
:mod:`interp.selection.gate`, on prompts that the directions were not fitted on. The null is the
same with directions drawn from the covariance within groups, of the mean length. A third matrix is
the representational dependence (:mod:`interp.similarity.independence`): how much the ablation of
a's direction changes the cosine of b's positives with b's direction, as a mean over layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from interp.activations import RESIDUAL_OUT, collect
from interp.interventions import ablate
from interp.model import LanguageModel, undisturbed
from interp.progress import Advance, silent
from interp.readout import Readout
from interp.selection.gate import Trial
from interp.selection.gate_prompts import (
    FEWEST_HELD_OUT,
    Fitted,
    Sides,
    TooFewPromptsError,
    fit_of,
    sides_of,
    training_sides_of,
)
from interp.selection.gate_statistics import covariance_matched_directions
from interp.selection.trials import Prompts
from interp.similarity import cosine_shift

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class TransferMatrix:
    """Effects of every group's direction on every group.

    Attributes:
        labels: of the groups; rows are the groups of the direction, columns the affected ones.
        layer, position: of the directions.
        removed, induced: shares of the gap; see :mod:`interp.selection.transfer`.
        null_removed, null_induced: the same with null directions.
        cosine: between the groups' directions.
        dependence: representational dependence; 0 if ablation of the row's direction does not
            change the column's cosine.
        gap: of each group, in the unit of the readout.
    """

    labels: tuple[str, ...]
    layer: int
    position: int
    removed: Float[np.ndarray, "source target"]
    induced: Float[np.ndarray, "source target"]
    null_removed: Float[np.ndarray, "draw target"]
    null_induced: Float[np.ndarray, "draw target"]
    cosine: Float[np.ndarray, "source target"]
    dependence: Float[np.ndarray, "source target"]
    gap: Float[np.ndarray, " target"]

    def __repr__(self) -> str:
        other = ~np.eye(len(self.labels), dtype=bool)
        nulls = [
            f"null {drawn.mean():.2f}" if len(drawn) else "no null"
            for drawn in (self.null_removed, self.null_induced)
        ]
        return (
            f"TransferMatrix of {len(self.labels)} groups at layer {self.layer}, token "
            f"{self.position}: removed {np.diag(self.removed).mean():.2f} in the own group, "
            f"{self.removed[other].mean():.2f} in others ({nulls[0]}); "
            f"induced {np.diag(self.induced).mean():.2f} and {self.induced[other].mean():.2f} "
            f"({nulls[1]})"
        )

    def outside_null(self, effect: str) -> Bool[np.ndarray, "source target"]:
        """Whether ``removed`` or ``induced`` exceeds 95% of the null draws of its target."""
        return getattr(self, effect) > self.null_limit(effect)

    def null_limit(self, effect: str) -> Float[np.ndarray, " target"]:
        """The 95th percentile of the null of ``removed`` or ``induced``; infinite without draws."""
        drawn = getattr(self, f"null_{effect}")
        if not len(drawn):
            return np.full(drawn.shape[1], np.inf)
        return np.quantile(drawn, 0.95, axis=0, method="higher")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per pair: source, target, effects, their null's 95th percentile, geometry."""
        import pandas as pd

        k = len(self.labels)
        rows, columns = (index.ravel() for index in np.indices((k, k)))
        names = np.array(self.labels)
        limits = {f"{one}_null": self.null_limit(one)[columns] for one in ("removed", "induced")}
        kinds = ("removed", "induced", "cosine", "dependence")
        values = {kind: getattr(self, kind).ravel() for kind in kinds}
        return pd.DataFrame({"source": names[rows], "target": names[columns], **values, **limits})

    def plot(self) -> Figure:
        """Draw both effects; cells inside their null are hatched."""
        from interp.figures import transfer_figure

        return transfer_figure(self)


def measure_transfer(
    lm: LanguageModel,
    train: Mapping[str, Prompts],
    held_out: Mapping[str, Prompts],
    readout: Readout,
    *,
    layer: int,
    position: int = -1,
    draws: int = 19,
    prompts: int = 16,
    batch_size: int = 32,
    seed: int = 0,
    progress: Advance = silent,
) -> TransferMatrix:
    """The transfer matrix of groups at one layer and token.

    Args:
        lm: the model.
        train: prompts of each group, for the directions.
        held_out: other prompts of the same groups, for the effects.
        readout: one number per prompt; above 0 if the model treats a prompt like a positive.
        layer, position: of the directions; :func:`~interp.selection.gate.measure_gate` chooses
            them.
        draws: null directions; with 0, no cell counts as outside its null.
        prompts: most held-out prompts of each kind and group.
        batch_size: prompts in one forward.
        seed: of the null directions.
        progress: called with the number of prompts just read under an edit.

    Raises:
        TooFewPromptsError: fewer than two groups have enough prompts that the model treats as
            labelled.
    """
    with undisturbed(lm.model):
        sides, names = training_sides_of(lm, train, readout, batch_size)
        fitted = fit_of(lm, sides, names, [layer], [position], batch_size)
        directions, groups = {}, {}
        for label, part in held_out.items():
            direction = fitted.difference(layer, position, label)
            rows = _tested(lm, part, readout, batch_size)
            if direction is not None and direction.any() and rows is not None:
                directions[label], groups[label] = direction, rows.first(prompts)
        if len(directions) < 2:
            raise TooFewPromptsError(
                f"a transfer matrix needs two groups with {FEWEST_HELD_OUT} or more prompts of "
                f"each kind that the model treats as labelled; {len(directions)} have them"
            )
        run = Trial(lm, fitted.means, readout, batch_size, progress)
        return _matrix(run, fitted, directions, groups, layer, position, draws, seed)


def _tested(lm: LanguageModel, part: Prompts, readout: Readout, batch_size: int) -> Sides | None:
    try:
        return sides_of(lm, part, readout, batch_size, FEWEST_HELD_OUT, "held-out")
    except TooFewPromptsError:
        return None


def _matrix(
    run: Trial,
    fitted: Fitted,
    directions: Mapping[str, np.ndarray],
    groups: Mapping[str, Sides],
    layer: int,
    position: int,
    draws: int,
    seed: int,
) -> TransferMatrix:
    positive = np.array([rows.positive_values.mean() for rows in groups.values()])
    negative = np.array([rows.negative_values.mean() for rows in groups.values()])
    gap = positive - negative

    def effects(vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bypass = [run.bypass(g.positive, vector[None], layer).mean() for g in groups.values()]
        induce = [run.induce(g.negative, vector, layer).mean() for g in groups.values()]
        return (positive - bypass) / gap, (np.array(induce) - negative) / gap

    vectors = np.array(list(directions.values()))
    lengths = np.linalg.norm(vectors, axis=1)
    own = [effects(vector) for vector in vectors]
    states = [side.astype(np.float64) for side in fitted.at(layer, position)]
    drawn = covariance_matched_directions(states, draws, np.random.default_rng(seed))
    null = [effects(lengths.mean() * direction) for direction in drawn]
    units = vectors / lengths[:, None]
    return TransferMatrix(
        tuple(directions),
        layer,
        position,
        np.array([one for one, _ in own]),
        np.array([two for _, two in own]),
        np.reshape([one for one, _ in null], (-1, len(gap))),
        np.reshape([two for _, two in null], (-1, len(gap))),
        units @ units.T,
        _dependence(run, units, list(groups.values())),
        gap,
    )


def _dependence(
    run: Trial, units: np.ndarray, groups: list[Sides]
) -> Float[np.ndarray, "source target"]:
    rows = [row for group in groups for row in group.positive]
    ends = np.cumsum([0, *(len(group.positive) for group in groups)])

    def states() -> np.ndarray:
        return collect(run.lm, rows, sites=[RESIDUAL_OUT], batch_size=run.batch_size).states

    before = states()
    found = np.empty((len(units), len(groups)))
    for i, unit in enumerate(units):
        with ablate(run.lm, unit):
            after = states()
        for j, other in enumerate(units):
            part = slice(ends[j], ends[j + 1])
            found[i, j] = cosine_shift(before[part], after[part], other).mean()
    return found
