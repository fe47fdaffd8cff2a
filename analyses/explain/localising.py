"""The place of a loss: patches of weights and states, one place at a time, in both directions.

Restored: the share of the loss that the base's weights (or states) restore in the after-model.
Removed: the share of the loss that the after-model's weights (or states) cause in the base. An edit
that works in one direction only may open a path that neither model uses (arXiv 2311.17030). A place
therefore stands out only if both directions work and no random edit of the same size, at any place,
restores as much (max-T).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from interp.activations import ATTENTION_OUT, MLP_OUT, RESIDUAL_OUT, Site, blocks
from interp.causes import COALITIONS, MOVES, Undone
from interp.causes.change import REMAINDER, ROUTING
from interp.errors import InputError
from interp.patching import (
    WHOLE,
    Effects,
    PatchRuns,
    Stitching,
    by_module,
    in_layers,
    patch,
    patch_weights,
)
from interp.progress import Advance, silent
from interp.readout import Readout

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.95
# The smallest p is 1 / (1 + draws); with fewer draws no place can stand out.
FEWEST_DRAWS = 19
COMPONENTS = (ATTENTION_OUT, MLP_OUT)
Groups = Sequence[object] | None


def require_draws(count: int) -> int:
    """Check the number of random edits per place.

    Raises:
        InputError: above 0, but too few for any place to stand out.
    """
    if 0 < count < FEWEST_DRAWS:
        raise InputError(
            f"{count} random edits of every place cannot give a significant result at "
            f"{1 - LEVEL:.0%}; give at least {FEWEST_DRAWS}, or 0 for no null"
        )
    return count


def patched_components(runs: PatchRuns, layers: Sequence[int]) -> list[Site]:
    """The components that a trace finds in each of the layers of both models."""
    every = [block for lm in (runs.source, runs.target) for block in blocks(lm, layers)]
    return [site for site in COMPONENTS if all(site.find(block) for block in every)]


def place_tables(
    runs: PatchRuns,
    readout: Readout,
    *,
    layers: Sequence[int],
    groups: Groups = None,
    controls: int = 20,
    batch_size: int = 64,
    seed: int = 0,
    progress: Advance = silent,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effects of base weights (by layer and module) and of base states.

    States are patched by layer and position, and by layer and component over all tokens
    (:func:`patched_components`). :func:`both_ways` explains the columns.

    Args:
        runs: from the base to the after-model.
        readout: the refusal log-odds.
        layers: 0-based; weights outside the layers are always included.
        groups: prompts of one group are resampled together.
        controls: number of random edits of every place, of the same size as its change.
        batch_size: prompts in one forward.
        seed: for the controls.
        progress: called with the number of forwards just done.
    """
    import pandas as pd

    batches = -(-len(runs.source_rows) // batch_size)
    found = patched_components(runs, layers)

    def weights(way: PatchRuns, drawn: int) -> Effects:
        return patch_weights(
            way, readout, grouping=in_layers(by_module, layers), batch_size=batch_size,
            controls=drawn, seed=seed,
            progress=lambda places: progress(places * (1 + drawn) * batches),
        )  # fmt: skip

    def stream(way: PatchRuns, drawn: int) -> Effects:
        return states(way, drawn, [RESIDUAL_OUT], [*runs.positions(), WHOLE])

    def components(way: PatchRuns, drawn: int) -> Effects:
        return states(way, drawn, found, [WHOLE])

    def states(way: PatchRuns, drawn: int, sites: list[Site], positions: list[str]) -> Effects:
        return patch(
            way, readout, sites=sites, layers=layers, positions=positions,
            batch_size=batch_size, controls=drawn, seed=seed, progress=progress,
        )  # fmt: skip

    of_weights, *of_states = (
        both_ways(one_way(runs, controls), one_way(runs.reversed(), 0), groups)
        for one_way in (weights, stream, *([components] if found else []))
    )
    return of_weights, pd.concat(of_states, ignore_index=True)


def both_ways(restored: Effects, removed: Effects, groups: Groups) -> pd.DataFrame:
    """One row per place.

    Returns:
        The columns of :meth:`~interp.patching.Effects.to_dataframe` for ``restored``; its
        ``fraction`` for ``removed``, as ``removed, removed_low, removed_high``; with controls
        their band as shares, ``control_fraction_low, control_fraction_high``;
        and ``stands_out``.
    """
    table = restored.to_dataframe(groups=groups)
    inverse = removed.to_dataframe(groups=groups)
    for part in ("", "_low", "_high"):
        table[f"removed{part}"] = inverse[f"fraction{part}"]
    clear = np.ones(len(table), dtype=bool)
    if restored.controls is not None:
        # A gap below zero swaps the ends of the band.
        band = table[["control_low", "control_high"]].to_numpy()
        ends = np.sort(band / restored.gap, axis=1)
        table["control_fraction_low"], table["control_fraction_high"] = ends.T
        clear = (table["p_family_wise"] <= 1 - LEVEL + 1e-9).to_numpy()
    above = (table["fraction_low"] > 0) & (table["removed_low"] > 0)
    below = (table["fraction_high"] < 0) & (table["removed_high"] < 0)
    return table.assign(stands_out=clear & (above | below))


def stitching_of(undone: Sequence[Undone]) -> Stitching:
    """Model stitching from two of the coalitions at every layer."""
    states, reading = COALITIONS.index((*MOVES, REMAINDER)), COALITIONS.index((ROUTING,))
    return Stitching(
        tuple(at_layer.layer for at_layer in undone),
        undone[0].values[-1],
        undone[0].values[0],
        np.stack([at_layer.values[states] for at_layer in undone]),
        np.stack([at_layer.values[reading] for at_layer in undone]),
    )


def forwards(
    runs: PatchRuns, layers: Sequence[int], controls: int, batch_size: int
) -> tuple[int, int]:
    """Number of forwards for the two tables, weights and states."""
    batches = -(-len(runs.source_rows) // batch_size)
    places = len(in_layers(by_module, layers)(runs.target))
    cells = len(layers) * (len(runs.positions()) + 1 + len(patched_components(runs, layers)))
    return places * (2 + controls) * batches, cells * (2 + controls) * batches
