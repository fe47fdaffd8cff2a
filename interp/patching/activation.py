"""Activation patching: run the target with one place's states from the source.

Vig et al. 2020, Meng et al. 2022; good practice from Heimersheim and Nanda 2024. One forward of the
source, one of the target, and one of the target for every cell.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.activations import RESIDUAL_OUT, Site, batches_by_length
from interp.model import Advance, undisturbed, writing
from interp.patching.alignment import Alignment
from interp.patching.controls import random_directions, random_move
from interp.patching.effects import Effects
from interp.patching.places import keeping, patch_places, read_out
from interp.patching.runs import PatchRuns
from interp.readout import Readout


def patch(
    runs: PatchRuns,
    readout: Readout,
    *,
    sites: Sequence[Site] = (RESIDUAL_OUT,),
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    batch_size: int = 32,
    controls: int = 0,
    seed: int = 0,
    progress: Advance | None = None,
) -> Effects:
    """The readout of the target with the source's states at one place at a time.

    Args:
        runs: who gives and who takes.
        readout: of the logits at the last token.
        sites: one cell each; the attention heads' (``HEADS``) one for every head.
        layers: 0-based decoder layers; all by default.
        positions: names of spans, or ``WHOLE`` for all tokens; every span by default.
        batch_size: prompts in one forward.
        controls: random moves per cell (see :mod:`interp.patching.controls`), a forward each.
        seed: of the controls.
        progress: called with the number of forwards just done.

    Raises:
        InputError: a layer, site or position that is not there.
    """
    places = patch_places(runs, sites, layers, positions)
    prompts = len(runs.target_rows)
    source, target = np.empty(prompts), np.empty(prompts)
    patched = np.empty((len(places), prompts))
    moved = np.empty((controls, len(places), prompts))
    with undisturbed(runs.source.model), undisturbed(runs.target.model):
        axes = random_directions(runs, places, controls, seed, batch_size)
        for chosen in batches_by_length(runs.target_rows, batch_size):
            part = runs.subset(chosen)
            with keeping([place.given for place in places], part.source_rows) as given:
                source[chosen] = read_out(part.source, part.source_rows, readout)
            target[chosen] = read_out(part.target, part.target_rows, readout)
            alignments = {p: Alignment.at(part, p) for p in {place.position for place in places}}
            for i, place in enumerate(places):
                states = given[place.given]
                swap = alignments[place.position].replacing(states, place.features(states))
                with writing(place.taken, swap):
                    patched[i, chosen] = read_out(part.target, part.target_rows, readout)
                for draw in range(controls):
                    with writing(place.taken, random_move(swap, axes[draw][i])):
                        moved[draw, i, chosen] = read_out(part.target, part.target_rows, readout)
                if progress is not None:
                    progress(1 + controls)
    cells = tuple(place.cell for place in places)
    return Effects(cells, patched, target, source, moved if controls else None)
