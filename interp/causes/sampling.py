r"""How the readouts of coalitions depend on the prompts that the means and the gain come from.

The readout of a prompt uses means from the other half of the prompts, and a gain from all. Another
sample would change the mean readout of every coalition through both. To first order, the change is
the gradient of the readout with respect to the move, times the move's change. The gradients come
from one backward per coalition (:mod:`interp.causes.undoing`). The change of the move per unit of
weight of each unit is the infinitesimal jackknife (Jaeckel 1972; Efron, *The Jackknife, the
Bootstrap and Other Resampling Plans*, 1982).

Limit: the response is linear. Where the readout bends within the sampling error of the means, the
intervals are those of its tangent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from interp.causes.change import Change, ClassMeans
from interp.statistics import effective_number, joined_numbers, sums_by_unit, unit_numbers


@dataclass(frozen=True)
class Response:
    """What the weight of each unit does to the mean readouts through the means and the gain.

    Attributes:
        effect: change of the mean readout of each coalition per unit of weight.
        units: the unit of each positive prompt; the prompts of a unit are resampled together.
        counted_twice: the standard deviation, in the mean readouts, of that part of the gain's
            noise whose variance the effects hold twice.
    """

    effect: Float[np.ndarray, "coalition unit"]
    units: Int[np.ndarray, " prompt"]
    counted_twice: Float[np.ndarray, " coalition"]


def response_of(
    change: Change,
    layer: int,
    sides: Int[np.ndarray, " row"],
    gradients: Float[np.ndarray, "coalition half d_model"],
    coalitions: Sequence[Sequence[str]],
    groups: Sequence[object] | None = None,
) -> Response:
    """The response of every coalition at one layer.

    Args:
        change: the states.
        layer: 0-based.
        sides: the half (0 or 1) of every row, positive rows first.
        gradients: of the mean readout over all prompts with respect to the move of the prompts of
            each half.
        coalitions: the changes that each coalition undoes.
        groups: group of each positive prompt; these prompts are resampled together too.
    """
    column, count = change.layers.index(layer), len(np.unique(change.base.units))
    gain = np.atleast_1d(change.gains.value[column])
    on_gain = change.gains.influence[column][:, None] * np.sqrt((count - 1) / count)
    noise = np.sqrt(np.atleast_1d(change.gains.counted_twice[column]))
    effect, twice = np.zeros((len(coalitions), count)), np.zeros(len(coalitions))
    for half in (0, 1):
        rows = sides != half
        parts, still = change.parts(layer, rows), [np.zeros(())] * 4
        units = _varied(parts, _pulls(change, layer, rows), gain, on_gain)
        again = _varied(parts, still, gain, noise)
        for number, coalition in enumerate(coalitions):
            slope = gradients[number, half]
            effect[number] += _difference(units, coalition) @ slope
            twice[number] += _difference(again, coalition) @ slope
    return Response(*_joined(effect, change.base.units, groups, len(change.base.positive)), twice)


def _varied(
    parts: Sequence[np.ndarray],
    pulls: Sequence[np.ndarray],
    gain: Float[np.ndarray, " 1"],
    on_gain: Float[np.ndarray, "*unit 1"],
) -> tuple[ClassMeans, ClassMeans]:
    """The class means and the gain, each plus its pull and minus its pull."""
    up, down = (
        ClassMeans.of(
            [part + sign * pull for part, pull in zip(parts, pulls, strict=True)],
            gain + sign * on_gain,
        )
        for sign in (1, -1)
    )
    return up, down


def _difference(
    varied: tuple[ClassMeans, ClassMeans], coalition: Sequence[str]
) -> Float[np.ndarray, "*unit d_model"]:
    """Change of a coalition's move, from central differences."""
    up, down = varied
    return (up.move(coalition) - down.move(coalition)) / 2


def _pulls(change: Change, layer: int, rows: np.ndarray) -> list[Float[np.ndarray, "unit d_model"]]:
    """Change of each class mean per unit of weight of each unit."""
    units = np.unique(change.base.units, return_inverse=True)[1]
    count, column = int(units.max()) + 1, change.layers.index(layer)
    found = []
    for contrast in (change.base, change.after):
        for label in (0, 1):
            chosen = rows & (contrast.classes == label)
            own = units[chosen]
            states = contrast.states[chosen, column]
            pull = np.zeros((count, states.shape[-1]))
            pull[np.unique(own)] = sums_by_unit((states - states.mean(axis=0)) / len(own), own)
            # The spread of few units about their own mean is too small.
            few = effective_number(own)
            found.append(pull * np.sqrt(few / max(few - 1, 1) * (count - 1) / count))
    return found


def _joined(
    effect: Float[np.ndarray, "coalition unit"],
    units: Int[np.ndarray, " row"],
    groups: Sequence[object] | None,
    prompts: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Units that share a group become one."""
    units = np.unique(units, return_inverse=True)[1]
    if groups is None:
        return effect, units[:prompts]
    count = effect.shape[1]
    group = count + unit_numbers(groups, prompts)
    label = joined_numbers(units[:prompts], group, int(group.max()) + 1)[:count]
    joined = np.unique(label, return_inverse=True)[1]
    return np.asarray(effect @ np.eye(int(joined.max()) + 1)[joined]), joined[units[:prompts]]
