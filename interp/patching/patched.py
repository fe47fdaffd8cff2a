"""A target with the states of a source in one place: late forwards, or whole ones.

Between two models that read the same rows, a forward begins at the patched layer and at the piece
of the rows with the first patched token (:mod:`interp.patching.recording`). Other patches, and
models that do not allow this, run whole forwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float

from interp.model import CannotEnter, Hidden, LanguageModel, Point, writing
from interp.patching.alignment import Alignment, Replacement
from interp.patching.places import Place, in_turn, keeping, read_out
from interp.patching.recording import Recording, numbers, recording_of
from interp.patching.runs import WHOLE, PatchRuns
from interp.readout import Readout

Values = Float[np.ndarray, " prompt"]
Edit = Callable[[Hidden], Hidden]


class Patched(Protocol):
    """The target of a batch of runs, with other states in one place at a time.

    Attributes:
        source, target: the readouts of the unpatched models.
    """

    source: Values
    target: Values

    def swaps(self, place: Place) -> list[Replacement]:
        """The edits that write the source's states into a place, one for each forward."""

    def read(self, place: Place, edits: Sequence[Edit]) -> Values:
        """The target's readout with such edits of the place."""


def patched_target(part: PatchRuns, places: Sequence[Place], readout: Readout) -> Patched:
    """The target of a batch of runs."""
    if [row.ids for row in part.source_rows] == [row.ids for row in part.target_rows]:
        try:
            found = _Late.of(part, places, readout)
        except CannotEnter:
            found = None
        if found is not None:
            return found
    return _Whole(part, places, readout)


class _Late:
    """Forwards that begin at the layer and at the first piece with a patched token."""

    def __init__(
        self, given: Recording, taken: Recording, part: PatchRuns, places: Sequence[Place]
    ) -> None:
        self.given, self.taken = given, taken
        self.source, self.target = given.values, taken.values
        names = {place.position for place in places}
        self._columns = {name: taken.columns(_spans(part, name)) for name in names}

    @classmethod
    def of(cls, part: PatchRuns, places: Sequence[Place], readout: Readout) -> _Late | None:
        entries = [i for place in places if (i := _entry(part.target, place)) >= 0]
        wanted = [Point(part.target.layers[i]) for i in entries]
        wanted += [place.taken for place in places]
        given = [place.given for place in places]
        source = recording_of(part.source, part.source_rows, readout, given)
        if source is None:
            return None
        target = recording_of(part.target, part.target_rows, readout, wanted)
        if target is None or target.layout != source.layout:
            return None
        return cls(source, target, part, places)

    def swaps(self, place: Place) -> list[Replacement]:
        states = self.given.states(place.given)
        *pieces, first = self._columns[place.position]
        ends = [first] * self.given.forwards
        found = []
        for one, taken in zip(states, [*pieces, *ends], strict=True):
            # Some layers fold batch and token into one axis for their MLP.
            given = one.reshape(len(taken), -1, one.shape[-1])
            more = given.shape[1] - taken.shape[1]  # tokens that the readout appends
            taken = torch.nn.functional.pad(taken, (0, more), value=place.position == WHOLE)
            found.append(Replacement(given, taken, place.features(one)))
        return found

    def read(self, place: Place, edits: Sequence[Edit]) -> Values:
        columns = self._columns[place.position]
        first = next((i for i, taken in enumerate(columns) if taken.any()), len(columns) - 1)
        with writing(place.taken, in_turn(edits[first:])):
            return numbers(self.taken.again(_entry(self.taken.lm, place), first))


def _entry(lm: LanguageModel, place: Place) -> int:
    """The last layer that a patch of the place leaves as it was, but for its output; -1 for none.

    The output of a layer that does not run can still be patched.
    """
    layer = place.cell.layer
    assert layer is not None
    return layer if place.taken == Point(lm.layers[layer]) else layer - 1


def _spans(part: PatchRuns, position: str) -> list[list[slice]]:
    """The tokens of each row at a position."""
    rows = part.target_rows
    if position == WHOLE:
        return [[slice(0, len(row))] for row in rows]
    return [[row.spans[position]] if position in row.spans else [] for row in rows]


class _Whole:
    """Whole forwards with the states written in."""

    def __init__(self, part: PatchRuns, places: Sequence[Place], readout: Readout) -> None:
        self._part, self._readout = part, readout
        with keeping([place.given for place in places], part.source_rows) as self._given:
            self.source = read_out(part.source, part.source_rows, readout)
        self.target = read_out(part.target, part.target_rows, readout)
        names = {place.position for place in places}
        self._alignments = {name: Alignment.at(part, name) for name in names}

    def swaps(self, place: Place) -> list[Replacement]:
        return swaps_at(place, self._alignments[place.position], self._given[place.given])

    def read(self, place: Place, edits: Sequence[Edit]) -> Values:
        with writing(place.taken, in_turn(edits)):
            return read_out(self._part.target, self._part.target_rows, self._readout)


def swaps_at(place: Place, alignment: Alignment, given: Sequence[Hidden]) -> list[Replacement]:
    """The edits that write the source's states into a place, one for each forward."""
    return [alignment.replacing(states, place.features(states)) for states in given]
