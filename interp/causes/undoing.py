r"""Undo every change in the after-model, alone and in every combination with the others.

A coalition is a set of changes that are undone. For each coalition, the forward overwrites the last
token's state at one layer. The new state is the class mean of the coalition plus the prompt's
deviation from its class mean. The later layers come from the base or from the after-model. The full
coalition is the base and the empty coalition is the after-model, so the shares add up to one.

A prompt's readout uses means from the half of the prompts that does not contain it. The gradients
of the readouts carry the sampling error of the means into the intervals
(:mod:`interp.causes.sampling`).

If an edit restores the readout, the change is sufficient to cause the loss along this path, but
other paths may exist (Makelov et al. 2023, arXiv 2311.17030). So every edit has its inverse, which
applies the same change to the base.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from math import factorial

import numpy as np
import torch
from jaxtyping import Float

from interp.causes.change import MOVES, PLAYERS, REMAINDER, ROUTING, Change, ClassMeans
from interp.causes.sampling import Response, response_of
from interp.causes.stitched import AFTER, BASE, Stitched, StitchedPrompts
from interp.errors import InputError
from interp.model import LanguageModel, undisturbed
from interp.patching import PatchRuns, between_models, numbers
from interp.progress import Advance, silent
from interp.readout import Readout
from interp.statistics import (
    FEWEST_UNITS,
    Draws,
    Estimate,
    resampling_weights,
    unit_count,
    weighted_means,
)

COALITIONS = tuple(
    tuple(name for p, name in enumerate(PLAYERS) if number >> p & 1)
    for number in range(2 ** len(PLAYERS))
)

MOST_WITH_GRADIENT = 16
"""Prompts in one whole forward with gradients, which keeps the activations of all later layers."""


@dataclass(frozen=True)
class Undone:
    """Readouts of every coalition at one layer.

    Attributes:
        layer: 0-based decoder layer.
        values: readouts in float64, in the order of :data:`COALITIONS`: the first row is the
            unchanged after-model, the last row is the base.
        groups: group of each prompt; prompts of one group are resampled together.
        response: how the means and the gain carry the sampling of prompts into the readouts; None
            if these are known, and prompts vary only as readers.
    """

    layer: int
    values: Float[np.ndarray, "coalition prompt"]
    groups: tuple[object, ...] | None = None
    response: Response | None = None

    @property
    def gap(self) -> float:
        """The mean loss of the readout, in its unit."""
        return float((self.values[-1] - self.values[0]).mean())

    @property
    def ceiling(self) -> float:
        """Share restored by the base's whole states at this layer; the limit for state edits."""
        everything = COALITIONS.index((*MOVES, REMAINDER))
        with np.errstate(divide="ignore", invalid="ignore"):
            return float((self.values[everything] - self.values[0]).mean() / np.float64(self.gap))

    def shares(self, *, level: float = 0.95, resamples: int = 2000, seed: int = 0) -> Shares:
        """Shapley shares of the loss, by player."""
        everyone = len(COALITIONS) - 1
        players = range(len(PLAYERS))
        alone, last = np.zeros((2, len(PLAYERS), len(COALITIONS)))
        alone[players, [1 << p for p in players]] = 1
        alone[:, 0] -= 1
        last[players, [everyone ^ (1 << p) for p in players]] = -1
        last[:, everyone] += 1
        kinds = (shapley_matrix(len(PLAYERS)), alone, last)
        n = self.values.shape[1]
        means, freedom = self._resampled(resamples, seed)
        estimates = []
        with np.errstate(divide="ignore", invalid="ignore"):  # the loss may be zero
            for kind in kinds:
                observed, up, down, *draws = means @ kind.T / (means[:, -1:] - means[:, :1])
                spread = _once(observed, np.array(draws), (up - down) / 2)
                found = {
                    name: Draws(float(value), each, n, freedom=freedom)
                    for name, value, each in zip(PLAYERS, observed, spread.T, strict=True)
                }
                estimates.append({name: each.estimate(level) for name, each in found.items()})
        return Shares(*estimates)

    def _resampled(
        self, resamples: int, seed: int
    ) -> tuple[Float[np.ndarray, "row coalition"], int]:
        """Mean readouts and the degrees of freedom of their spread.

        The rows are the observed readouts, these with the part of the noise that the resamples
        count twice added and subtracted, and the resamples.
        """
        n = self.values.shape[1]
        observed = self.values.mean(axis=1)
        if self.response is None:
            clusters = n if self.groups is None else self.groups
            weights = resampling_weights(clusters, resamples, seed)
            drawn = weighted_means(self.values.T, weights)
            return np.stack([observed] * 3 + [*drawn]), unit_count(clusters) - 1
        effect, units = self.response.effect, self.response.units
        count, read = effect.shape[1], unit_count(units)
        # Units that are not read (negative prompts alone) do not make up for too few that are.
        weights = resampling_weights(count, resamples, seed, fewest=FEWEST_UNITS + count - read)
        drawn = weighted_means(self.values.T, weights[:, units])
        drawn += (weights * count / weights.sum(axis=1, keepdims=True) - 1) @ effect.T
        twice = self.response.counted_twice
        rows = [observed, observed + twice, observed - twice, *drawn]
        return np.stack(rows), read - 1


def _once(
    observed: Float[np.ndarray, " player"],
    draws: Float[np.ndarray, "resample player"],
    twice: Float[np.ndarray, " player"],
) -> Float[np.ndarray, "resample player"]:
    """The draws with a spread that counts a part of their noise once instead of twice."""
    there = draws[np.isfinite(draws).all(axis=1)]
    variance = there.var(axis=0) if len(there) else np.zeros_like(twice)
    kept = 1 - np.minimum(twice**2 / np.where(variance > 0, variance, 1.0), 0.5)
    return observed + (draws - observed) * np.sqrt(kept)


@dataclass(frozen=True)
class Shares:
    """Shares of the loss by player: 0 is none of it and 1 is all of it.

    Attributes:
        shapley: the average over all orders; these shares add up to one.
        restored: the share that returns if only this change is undone in the after-model.
        removed: the share that is lost if only this change is applied to the base.
    """

    shapley: dict[str, Estimate]
    restored: dict[str, Estimate]
    removed: dict[str, Estimate]


def shapley_matrix(players: int) -> Float[np.ndarray, "player coalition"]:
    r"""Shapley values as weights: ``shapley_matrix(n) @ v`` for the 2ⁿ worths ``v`` of coalitions.

    A player's Shapley value is its contribution, averaged over all orders in which players join:

    .. math::
        \phi_p = \sum_{S \not\ni p} \frac{|S|!\,(n - |S| - 1)!}{n!}\,(v(S \cup p) - v(S))

    The values add up to v(all) − v(none), and a player that never changes v has the value 0
    (Shapley 1953). A coalition is a number; its bit p is 1 if player p is in the coalition.
    """
    weights = np.zeros((players, 2**players))
    for coalition in range(2**players):
        size = coalition.bit_count()
        for player in range(players):
            if coalition >> player & 1:
                share = factorial(size - 1) * factorial(players - size) / factorial(players)
                weights[player, coalition] += share
                weights[player, coalition ^ (1 << player)] -= share
    return weights


def undo(
    base: LanguageModel,
    after: LanguageModel,
    texts: Sequence[str],
    change: Change,
    readout: Readout,
    *,
    layers: Sequence[int] | None = None,
    groups: Sequence[object] | None = None,
    read: Sequence[int] | None = None,
    stitched: StitchedPrompts | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Advance = silent,
) -> tuple[Undone, ...]:
    """Readouts with every combination of changes undone, layer by layer.

    Args:
        base, after: models of the same shape with the same tokenizer.
        texts: the positive prompts of ``change``, in its order.
        change: last-token states of the positive and negative prompts, in both models.
        readout: one number per prompt; see :mod:`interp.readout`.
        layers: layers to test, all in ``change.layers``; all of these by default.
        groups: group of each prompt, for instance its paraphrases; prompts of one group are
            resampled together.
        read: numbers of the prompts that are read, the means being of all prompts; all by default.
        stitched: the stitched models over the prompts in ``read``, if they exist already.
        batch_size: prompts in one forward; at most 16 where forwards run as a whole.
        seed: seed of the split into halves.
        progress: called with the number of layers just done, times their prompts.

    Raises:
        InputError: the number of texts is not the number of positive rows, or the models have
            different shapes.
    """
    whole = runs_of(base, after, texts, change)
    layers = tuple(change.layers if layers is None else layers)
    read = list(range(len(texts)) if read is None else read)
    if stitched is None:
        stitched = StitchedPrompts(whole.subset(read), readout, layers)
    runs, sides = stitched.runs, change.halves(seed)
    means = {i: [change.means(i, sides != half) for half in (0, 1)] for i in layers}
    values = np.empty((len(layers), len(COALITIONS), len(read)))
    gradients = np.zeros((len(layers), len(COALITIONS), 2, change.base.positive.shape[-1]))
    own = sides[read]
    size = batch_size if stitched.begins_late else min(batch_size, MOST_WITH_GRADIENT)
    work = partial(_part, stitched=stitched, layers=layers, sides=own, means=means, most=size)
    with undisturbed(runs.source.model), undisturbed(runs.target.model):
        for chosen, (found, slopes) in runs.in_batches(size, work):
            values[:, :, chosen] = found
            for half in (0, 1):
                gradients[:, :, half] += slopes[:, :, own[chosen] == half].sum(axis=2) / len(read)
            progress(len(layers) * len(chosen))
    done = []
    for number, layer in enumerate(layers):
        response = response_of(change, layer, sides, gradients[number], COALITIONS, groups)
        response = replace(response, units=response.units[read])
        named = None if groups is None else tuple(groups[i] for i in read)
        done.append(Undone(layer, values[number], named, response))
    return tuple(done)


def runs_of(
    base: LanguageModel, after: LanguageModel, texts: Sequence[str], change: Change
) -> PatchRuns:
    """Runs of the base and the after-model on the positive prompts of ``change``.

    Raises:
        InputError: the number of texts is not the number of positive rows, or the models have
            different shapes.
    """
    if len(texts) != len(change.base.positive):
        raise InputError(
            f"{len(texts)} texts for {len(change.base.positive)} positive states; give the texts "
            "that the states were collected from, in their order"
        )
    return between_models(base, after, texts)


def _part(
    chosen: list[int],
    part: PatchRuns,
    *,
    stitched: StitchedPrompts,
    layers: Sequence[int],
    sides: np.ndarray,
    means: Mapping[int, Sequence[ClassMeans]],
    most: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Readouts and their gradients at every layer."""
    models = stitched.of(chosen)
    # Coalitions share a forward, unless memory allows a part of the prompts only.
    most = most if len(chosen) == len(sides) else len(chosen)
    found = [
        _coalitions(models, layer, [means[layer][half] for half in sides[chosen]], most)
        for layer in layers
    ]
    values, slopes = zip(*found, strict=True)
    return np.stack(values), np.stack(slopes)


def _coalitions(
    models: Stitched, layer: int, means: Sequence[ClassMeans], most: int
) -> tuple[Float[np.ndarray, "coalition prompt"], Float[np.ndarray, "coalition prompt d_model"]]:
    """Readouts, and their gradients with respect to the prompt's move."""
    values = np.empty((len(COALITIONS), len(means)))
    values[0], values[-1] = models.own[AFTER], models.own[BASE]
    slopes = np.zeros((*values.shape, len(means[0].base.midpoint)))  # these two have no move
    for some in together(range(1, len(COALITIONS) - 1), len(means), most):
        start, reader = _models(some[0])
        moves = np.stack([m.move(COALITIONS[number]) for number in some for m in means])
        move = torch.from_numpy(moves).float().requires_grad_(True)
        with torch.enable_grad():
            read = models.read(start, reader, layer, move)
            (slope,) = torch.autograd.grad(read.sum(), move)
        values[some] = numbers(read).reshape(len(some), -1)
        slopes[some] = slope.numpy().reshape(len(some), len(means), -1)
    return values, slopes


def together(coalitions: Iterable[int], prompts: int, most: int) -> list[list[int]]:
    """Coalitions of the same models, at most so many that ``most`` rows share a forward."""
    found = []
    for _, alike in groupby(sorted(coalitions, key=_models), key=_models):
        numbered, size = list(alike), max(1, most // prompts)
        found += [numbered[i : i + size] for i in range(0, len(numbered), size)]
    return found


def _models(number: int) -> tuple[str, str]:
    """The models of a coalition: whose states and whose later layers."""
    coalition = COALITIONS[number]
    return BASE if REMAINDER in coalition else AFTER, BASE if ROUTING in coalition else AFTER
