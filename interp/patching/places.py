r"""The places of a pair of runs, one for every cell, and the forwards that read and write them.

A control is a random move as long as a patch, in a direction in which the target's states vary. An
isotropic move leads mostly to regions without activations and has almost no effect, so any patch
would look significant. So each direction is a draw from a normal distribution with the covariance
of the target's states at the cell. The covariance is over prompts, of the mean over the cell's
tokens. The sum :math:`\sum_i g_i (h_i - \bar h)` with standard normal :math:`g_i` has this
covariance, so the module does not compute it. All prompts and tokens of a cell share one direction,
as for a feature. Each token moves along it by the distance that the patch moves the token.

A cell has no control if the target's states there do not vary over prompts, for example before the
user's text: the sum would hold rounding errors alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations import Site, chosen_layers, head_count, points_to_edit
from interp.errors import InputError
from interp.model import Hidden, LanguageModel, Point, Tokens, map_in_batches, reading
from interp.patching.alignment import Alignment, Replacement, chosen_positions
from interp.patching.effects import Cell
from interp.patching.recording import numbers
from interp.patching.rounding import moved_by
from interp.patching.runs import PatchRuns
from interp.readout import Readout, last_logits


@dataclass(frozen=True)
class Place:
    """One cell's place on both sides.

    Attributes:
        cell: the cell in the results.
        given, taken: the points in the source and in the target.
        position: name of the span.
        heads: number of heads that share the states; 1 if the cell is not a head.
    """

    cell: Cell
    given: Point
    taken: Point
    position: str
    heads: int = 1

    def features(self, states: Hidden) -> slice:
        """The part of the states' width that belongs to the cell."""
        if self.cell.head is None:
            return slice(None)
        width = states.shape[-1] // self.heads
        return slice(self.cell.head * width, (self.cell.head + 1) * width)


def patch_places(
    runs: PatchRuns,
    sites: Sequence[Site],
    layers: Sequence[int] | None,
    positions: Sequence[str] | None,
) -> list[Place]:
    """One place per site, layer, position and head, in this order.

    Raises:
        InputError: a layer, site or position does not exist, or a site can only be read.
    """
    if bypass := runs.target.checked.bypass:
        warnings.warn(
            f"{runs.target.name}: {bypass}, so later layers read more than the patched states; "
            "effects and shares of states leave that out",
            stacklevel=3,
        )
    chosen = chosen_layers(runs.target, layers)
    names = chosen_positions(runs, positions)
    given, taken = (points_to_edit(lm, chosen, sites) for lm in (runs.source, runs.target))
    places = []
    for s, site in enumerate(sites):
        for i, layer in enumerate(chosen):
            heads = head_count(runs.target, layer) if site.per_head else 1
            for name in names:
                for head in range(heads):
                    cell = Cell(layer, site.name, name, head if site.per_head else None)
                    places.append(Place(cell, given[s][i], taken[s][i], name, heads))
    return places


def read_out(
    lm: LanguageModel, rows: Sequence[Tokens], readout: Readout
) -> Float[np.ndarray, " prompt"]:
    """The readout of each row, in float64."""
    return numbers(readout(lm, rows))


def read_all(
    lm: LanguageModel, rows: Sequence[Tokens], readout: Readout, batch_size: int
) -> Float[np.ndarray, " prompt"]:
    """The readout of each row, in float64, computed in batches of similar length."""

    def read(chosen: list[int]) -> Float[np.ndarray, " chosen"]:
        return read_out(lm, [rows[i] for i in chosen], readout)

    return np.array(map_in_batches(read, rows, batch_size, together=lm.together(rows)))


@contextmanager
def keeping(
    wanted: Sequence[Point], rows: Sequence[Tokens]
) -> Iterator[Mapping[Point, list[Float[Tensor, "batch token width"]]]]:
    """The states at the wanted points, of each forward over ``rows`` inside the block.

    A module that runs several times in a forward has as many entries for it.
    """
    # Read a point once if several places share it.
    distinct = list(dict.fromkeys(wanted))
    kept: dict[Point, list[Hidden]] = {point: [] for point in distinct}

    def keep(index: int, hidden: Hidden) -> None:
        # Some layers fold batch and token into one axis for their MLP.
        kept[distinct[index]].append(hidden.reshape(len(rows), -1, hidden.shape[-1]))

    with reading(distinct, keep):
        yield kept


def in_turn(edits: Sequence[Callable[[Hidden], Hidden]]) -> Callable[[Hidden], Hidden]:
    """The edit that applies the n-th of ``edits`` at its n-th call."""
    rest = iter(edits)

    def edit(states: Hidden) -> Hidden:
        following = next(rest, None)
        if following is None:
            raise RuntimeError(
                f"a readout ran its patched model more than {len(edits)} times, but the source "
                "only that often; run the same forwards for every model"
            )
        return following(states)

    return edit


Directions = Sequence[Sequence[Float[Tensor, " width"]]]


def random_directions(
    runs: PatchRuns, places: Sequence[Place], draws: int, seed: int, batch_size: int
) -> Directions:
    """Unit directions by draw and place, from one forward of the target over all prompts.

    NaN where the states do not vary over prompts.

    Raises:
        InputError: there are fewer than two prompts, so no covariance, and ``draws`` is not 0.
    """
    prompts = len(runs.target_rows)
    if not draws:
        return []
    if prompts < 2:
        raise InputError("random controls need the covariance over prompts; give two at least")
    weights = np.random.default_rng(seed).normal(size=(draws, len(places), prompts))
    sums: list[Tensor | float] = [0.0] * len(places)
    for i, place in enumerate(places):
        taken = Alignment.at(runs, place.position).taken
        there = taken.any(dim=1).numpy()
        weights[:, i] -= weights[:, i][:, there].mean(axis=1, keepdims=True)
        weights[:, i][:, ~there] = 0.0
        # A state depends on its own and earlier tokens only.
        if len(_beginnings(runs.target_rows, taken)) < 2:
            weights[:, i] = np.nan

    def means(chosen: list[int], part: PatchRuns) -> list[Tensor]:
        with keeping([place.taken for place in places], part.target_rows) as states:
            last_logits(part.target, part.target_rows)
        found = []
        for i, place in enumerate(places):
            taken, (own,) = Alignment.at(part, place.position).taken, states[place.taken][:1]
            mean = _mean_state(own, taken)[:, place.features(own)]
            found.append(torch.from_numpy(weights[:, i, chosen]) @ mean)
        return found

    for _, found in runs.in_batches(batch_size, means):
        sums = [total + part for total, part in zip(sums, found, strict=True)]
    return [[_unit(torch.as_tensor(total)[draw]) for total in sums] for draw in range(draws)]


def random_move(
    swap: Replacement, direction: Float[Tensor, " width"]
) -> Callable[[Hidden], Hidden]:
    """An edit that moves each token along ``direction``, by the distance that ``swap`` moves it."""

    def move(states: Hidden) -> Hidden:
        difference = (swap(states) - states)[..., swap.features]
        length = difference.float().norm(dim=-1, keepdim=True)
        moved = states.clone()
        own = states[..., swap.features]
        moved[..., swap.features] = moved_by(own, length * direction.to(length), dim=-1)
        return moved

    return move


def _beginnings(rows: Sequence[Tokens], taken: Bool[Tensor, "batch token"]) -> set[tuple[int, ...]]:
    """The distinct beginnings of the rows, each up to its last token in ``taken``."""
    return {
        row.ids[: len(row) - len(columns) + int(columns.nonzero().max()) + 1]
        for row, columns in zip(rows, taken, strict=True)
        if columns.any()
    }


def _mean_state(states: Hidden, taken: Tensor) -> Float[Tensor, "batch width"]:
    """Mean state over the tokens in ``taken``; zero for rows without such tokens."""
    weights = taken.double() / taken.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("bt,btd->bd", weights, states.cpu().double())


def _unit(vector: Float[Tensor, " width"]) -> Float[Tensor, " width"]:
    return vector / vector.norm().clamp(min=torch.finfo(vector.dtype).tiny)
