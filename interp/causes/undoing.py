r"""Undo every change in the after-model, alone and in every combination with the others.

At one layer the residual stream is overwritten on its way: the last token's state is put together
from the class mean of one coalition and the prompt's own deviation from its mean; the layers that
follow are the base's or the after-model's. The coalition of all is the base itself, that of none
the after-model, so the shares add up to one.

Means come from the half of the prompts that the prompt whose readout is taken is not in. An edit
that restores the readout shows that the change is enough to carry the loss along this path, not
that the model has no other (Makelov et al. 2023, arXiv 2311.17030): so every edit has its inverse,
the same change done to the base.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import factorial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import RESIDUAL_OUT, batches_by_length, points
from interp.causes.change import MOVES, PLAYERS, REMAINDER, ROUTING, Change, ClassMeans
from interp.errors import InputError
from interp.model import Hidden, LanguageModel, undisturbed, writing
from interp.patching import PatchRuns, between_models, keeping, read_out
from interp.progress import Advance, silent
from interp.readout import Readout
from interp.statistics import Draws, Estimate, resampling_weights, weighted_means

COALITIONS = tuple(
    tuple(name for p, name in enumerate(PLAYERS) if number >> p & 1)
    for number in range(2 ** len(PLAYERS))
)


@dataclass(frozen=True)
class Undone:
    """Readouts of every coalition at one layer.

    Attributes:
        layer: 0-based decoder layer.
        values: in float64; in the order of :data:`COALITIONS`, the first the after-model as it
            is, the last the base.
        groups: prompts of one group are resampled together.
    """

    layer: int
    values: Float[np.ndarray, "coalition prompt"]
    groups: tuple[object, ...] | None = None

    @property
    def gap(self) -> float:
        """The loss of the readout, in its unit."""
        return float((self.values[-1] - self.values[0]).mean())

    @property
    def ceiling(self) -> float:
        """Share restored by the base's whole states at this layer: no move of them does more."""
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
        clusters = n if self.groups is None else self.groups
        weights = resampling_weights(clusters, resamples, seed)
        # Row 0: all prompts once.
        means = weighted_means(self.values.T, np.concatenate([np.ones((1, n)), weights]))
        estimates = []
        with np.errstate(divide="ignore", invalid="ignore"):  # where nothing was lost at all
            for kind in kinds:
                draws = means @ kind.T / (means[:, -1:] - means[:, :1])
                estimates.append(
                    {
                        name: Draws(float(shares[0]), shares[1:], n).estimate(level)
                        for name, shares in zip(PLAYERS, draws.T, strict=True)
                    }
                )
        return Shares(*estimates)


@dataclass(frozen=True)
class Shares:
    """Shares of the loss by player: 0 none of it, 1 all of it.

    Attributes:
        shapley: averaged over all orders; they add up to one.
        restored: the share that returns if only this change is undone in the after-model.
        removed: the share that is lost if only this change is applied to the base.
    """

    shapley: dict[str, Estimate]
    restored: dict[str, Estimate]
    removed: dict[str, Estimate]


def shapley_matrix(players: int) -> Float[np.ndarray, "player coalition"]:
    r"""Shapley values as weights: ``shapley_matrix(n) @ v`` for the 2ⁿ worths ``v`` of coalitions.

    What each player adds, averaged over all orders in which they may join,

    .. math::
        \phi_p = \sum_{S \not\ni p} \frac{|S|!\,(n - |S| - 1)!}{n!}\,(v(S \cup p) - v(S))

    They add up to v(all) − v(none), and a player that never changes anything gets nothing (Shapley
    1953). A coalition is a number whose bit p says whether player p is in it.
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
    batch_size: int = 64,
    seed: int = 0,
    progress: Advance = silent,
) -> tuple[Undone, ...]:
    """Readouts with every combination of changes undone, layer by layer.

    Args:
        base, after: models of one shape with one tokenizer.
        texts: the positive prompts of ``change``, in its order.
        change: their states and those of the negative ones at the last token, in both models.
        readout: of the logits at the last token.
        layers: some of the change's; all by default.
        groups: prompts of one group (paraphrases, say) are resampled together.
        batch_size: prompts in one forward.
        seed: of the halves.
        progress: called with the number of layers just done.

    Raises:
        InputError: texts that are not the positive rows, or models that do not fit each other.
    """
    runs = runs_of(base, after, texts, change)
    sides = change.halves(seed)
    found = []
    with undisturbed(base.model), undisturbed(after.model):
        for layer in change.layers if layers is None else layers:
            by_half = [change.means(layer, sides != half) for half in (0, 1)]
            values = np.empty((len(COALITIONS), len(texts)))
            for chosen in batches_by_length(runs.source_rows, batch_size):
                part = runs.subset(chosen)
                means = [by_half[sides[i]] for i in chosen]
                values[:, chosen] = _coalitions(part, layer, means, readout)
            found.append(Undone(layer, values, None if groups is None else tuple(groups)))
            progress(1)
    return tuple(found)


def runs_of(
    base: LanguageModel, after: LanguageModel, texts: Sequence[str], change: Change
) -> PatchRuns:
    """Base and after on the positive prompts of ``change``.

    Raises:
        InputError: not as many texts as positive rows, or models of different shape.
    """
    if len(texts) != len(change.base.positive):
        raise InputError(
            f"{len(texts)} texts for {len(change.base.positive)} positive states; give the texts "
            "that the states were collected from, in their order"
        )
    return between_models(base, after, texts)


def states_at(
    part: PatchRuns, layer: int, readout: Readout
) -> tuple[dict[str, Hidden], dict[str, np.ndarray]]:
    """States after ``layer`` and readouts of base and after, as they are."""
    states, own = {}, {}
    for name, lm, rows in (
        ("base", part.source, part.source_rows),
        ("after", part.target, part.target_rows),
    ):
        point = points(lm, [layer], [RESIDUAL_OUT])[0][0]
        with keeping([point], rows) as kept:
            own[name] = read_out(lm, rows, readout)
        states[name] = kept[point]
    return states, own


def read_from(
    part: PatchRuns, name: str, layer: int, states: Hidden, readout: Readout
) -> Float[np.ndarray, " prompt"]:
    """The readout of ``base`` or ``after`` whose later layers get ``states``."""
    lm, rows = (
        (part.source, part.source_rows) if name == "base" else (part.target, part.target_rows)
    )
    point = points(lm, [layer], [RESIDUAL_OUT])[0][0]
    with writing(point, lambda hidden: states.to(hidden).reshape(hidden.shape)):
        return read_out(lm, rows, readout)


def with_last_moved(states: Hidden, move: Float[np.ndarray, "prompt d_model"]) -> Hidden:
    """The states with every prompt's last one moved; left-padded, so it is the last column."""
    moved = states.clone()
    moved[:, -1] = (states[:, -1].float() + _tensor(move, states)).to(states.dtype)
    return moved


def _coalitions(
    part: PatchRuns, layer: int, means: Sequence[ClassMeans], readout: Readout
) -> Float[np.ndarray, "coalition prompt"]:
    states, own = states_at(part, layer, readout)
    values = np.empty((len(COALITIONS), len(means)))
    values[0], values[-1] = own["after"], own["base"]
    for number, coalition in enumerate(COALITIONS[1:-1], 1):
        start = "base" if REMAINDER in coalition else "after"
        mean = np.stack([m.with_base(coalition) for m in means])
        plain = np.stack([m.with_base(MOVES if start == "base" else ()) for m in means])
        mixed = with_last_moved(states[start], mean - plain)
        reader = "base" if ROUTING in coalition else "after"
        values[number] = read_from(part, reader, layer, mixed, readout)
    return values


def _tensor(move: np.ndarray, like: Tensor) -> Tensor:
    return torch.tensor(move, dtype=torch.float32, device=like.device)
