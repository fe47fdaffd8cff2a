"""The places of an runs, one for every cell, and the forwards that read and write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.activations import Site, batches_by_length, chosen_layers, head_count, points
from interp.model import Hidden, LanguageModel, Point, Tokens, reading
from interp.patching.alignment import check_positions
from interp.patching.effects import Cell
from interp.patching.runs import PatchRuns
from interp.readout import Readout


@dataclass(frozen=True)
class Place:
    """One cell's place on both sides.

    Attributes:
        cell: its name in the results.
        given, taken: in the source and in the target.
        position: name of the span.
        heads: how many share the states, for a cell that is one of them.
    """

    cell: Cell
    given: Point
    taken: Point
    position: str
    heads: int = 1

    def features(self, states: Hidden) -> slice:
        """Of the states' width, the part that is the cell's."""
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
    """By site, layer, position and head.

    Raises:
        InputError: a layer, site or position that is not there.
    """
    chosen = chosen_layers(runs.target, layers)
    names = runs.positions() if positions is None else tuple(positions)
    check_positions(runs, names)
    given, taken = (points(lm, chosen, sites) for lm in (runs.source, runs.target))
    places = []
    for s, site in enumerate(sites):
        heads = head_count(runs.target) if site.per_head else 1
        for i, layer in enumerate(chosen):
            for name in names:
                for head in range(heads):
                    cell = Cell(layer, site.name, name, head if site.per_head else None)
                    places.append(Place(cell, given[s][i], taken[s][i], name, heads))
    return places


def last_logits(lm: LanguageModel, rows: Sequence[Tokens]) -> Float[Tensor, "batch vocab"]:
    """The logits at each row's last token."""
    return lm.logits(lm.chat.pad(rows, lm.device), keep=1)[:, -1]


def read_out(
    lm: LanguageModel, rows: Sequence[Tokens], readout: Readout
) -> Float[np.ndarray, " prompt"]:
    """The readout of each row, in float64."""
    return readout(last_logits(lm, rows)).cpu().double().numpy()


def read_all(
    lm: LanguageModel, rows: Sequence[Tokens], readout: Readout, batch_size: int
) -> Float[np.ndarray, " prompt"]:
    """The readout of each row, in float64, from batches of like length."""
    values = np.empty(len(rows))
    for chosen in batches_by_length(rows, batch_size):
        values[chosen] = read_out(lm, [rows[i] for i in chosen], readout)
    return values


@contextmanager
def keeping(
    wanted: Sequence[Point], rows: Sequence[Tokens]
) -> Iterator[Mapping[Point, Float[Tensor, "batch token width"]]]:
    """The states at the wanted points, from the forward over ``rows`` inside the block."""
    # Points that several places share are read once.
    distinct = list(dict.fromkeys(wanted))
    kept: dict[Point, Hidden] = {}

    def keep(index: int, hidden: Hidden) -> None:
        # Some layers fold batch and token into one axis for their MLP.
        kept[distinct[index]] = hidden.reshape(len(rows), max(map(len, rows)), -1)

    with reading(distinct, keep):
        yield kept
