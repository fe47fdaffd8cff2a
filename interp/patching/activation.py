r"""Activation patching and attribution patching.

Activation patching runs the target with one cell's states from the source (Vig et al. 2020, Meng
et al. 2022; good practice: Heimersheim and Nanda 2024). It costs one forward of the source, one of
the target, and a part of one for every cell: the layers and tokens that the patch can change.

A cell may contain a token of massive activation, often the first token
(:mod:`interp.activations.massive`; ``sp.massive_activations(lm)`` names them). A patch replaces its
state by the same token's state in another run, so it stays massive. A random control of the same
length disturbs it and attention everywhere; look at the other spans then.

Attribution patching computes all cells at once from one gradient (Nanda 2023; Syed et al. 2023). To
first order in the change of the states,
:math:`m^{\mathrm{patched}} - m^{\mathrm{target}} \approx
\langle h^{\mathrm{source}} - h^{\mathrm{target}}, \nabla_h m\rangle` with the gradient of the
target's run. This is exact if the readout is linear in the states. Otherwise it fails where a
function saturates (softmax, norms, large moves), and a whole layer can get the wrong sign. Always
report :func:`~interp.patching.effects.patch_agreement` with the exact effects of a few prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import Float

from interp.activations import RESIDUAL_OUT, Site
from interp.model import Hidden, Point, doubled, undisturbed, writing
from interp.patching.alignment import Alignment
from interp.patching.effects import Effects
from interp.patching.patched import patched_target, swaps_at
from interp.patching.places import keeping, patch_places, random_directions, random_move, read_out
from interp.patching.recording import numbers
from interp.patching.runs import PatchRuns
from interp.progress import Advance, silent
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
    progress: Advance = silent,
) -> Effects:
    """Run the target with the source's states in one cell at a time, and measure the readout.

    Args:
        runs: the source and the target.
        readout: one number per prompt; see :mod:`interp.readout`.
        sites: sites to patch, one cell each; ``HEADS`` has one cell for every attention head.
        layers: 0-based decoder layers; all by default.
        positions: names of spans, or ``WHOLE`` for all tokens; every span by default.
        batch_size: prompts in one forward.
        controls: number of random moves per cell (see :mod:`interp.patching.places`); each costs
            one forward. They are NaN where states do not vary over prompts.
        seed: seed of the controls.
        progress: called with the number of forwards just done.

    Raises:
        InputError: a layer, site or position does not exist.
    """
    places = patch_places(runs, sites, layers, positions)
    prompts = len(runs.target_rows)
    source, target = np.empty(prompts), np.empty(prompts)
    patched = np.empty((len(places), prompts))
    moved = np.full((controls, len(places), prompts), np.nan)
    with undisturbed(runs.source.model), undisturbed(runs.target.model):
        axes = random_directions(runs, places, controls, seed, batch_size)

        def patched_part(chosen: list[int], part: PatchRuns) -> None:
            models = patched_target(part, places, readout)
            source[chosen], target[chosen] = models.source, models.target
            for i, place in enumerate(places):
                swaps = models.swaps(place)
                patched[i, chosen] = models.read(place, swaps)
                for draw in range(controls):
                    if not axes[draw][i].isfinite().all():
                        continue
                    moves = [random_move(swap, axes[draw][i]) for swap in swaps]
                    moved[draw, i, chosen] = models.read(place, moves)
                progress(1 + controls)

        for _ in runs.in_batches(batch_size, patched_part):
            pass
    cells = tuple(place.cell for place in places)
    return Effects(cells, patched, target, source, moved if controls else None)


def attribute(
    runs: PatchRuns,
    readout: Readout,
    *,
    sites: Sequence[Site] = (RESIDUAL_OUT,),
    layers: Sequence[int] | None = None,
    positions: Sequence[str] | None = None,
    batch_size: int = 16,
    progress: Advance = silent,
) -> Effects:
    """The effects of :func:`~interp.patching.activation.patch`, to first order.

    This costs two passes of the readout and one backward for all cells. It holds the states of all
    sites in memory.

    Args:
        runs, readout, sites, layers, positions: as for ``patch``; the readout must be
            differentiable.
        batch_size: prompts in one forward.
        progress: called with the number of prompts just done.

    Raises:
        InputError: a layer, site or position does not exist.
    """
    places = patch_places(runs, sites, layers, positions)
    prompts = len(runs.target_rows)
    source, target = np.empty(prompts), np.empty(prompts)
    patched = np.empty((len(places), prompts))
    with undisturbed(runs.source.model), undisturbed(runs.target.model):

        def patched_part(chosen: list[int], part: PatchRuns) -> None:
            with keeping([place.given for place in places], part.source_rows) as given:
                source[chosen] = read_out(part.source, part.source_rows, readout)
            own, gradients, target[chosen] = _gradients(
                part, [place.taken for place in places], readout
            )
            for i, place in enumerate(places):
                alignment = Alignment.at(part, place.position)
                patched[i, chosen] = target[chosen]
                for swap, states, slope in zip(
                    swaps_at(place, alignment, given[place.given]),
                    own[place.taken],
                    gradients[place.taken],
                    strict=True,
                ):
                    products = doubled(swap(states) - states) * doubled(slope)
                    effect = products.reshape(len(chosen), -1).sum(dim=1)
                    patched[i, chosen] += effect.cpu().numpy()

        for chosen, _ in runs.in_batches(batch_size, patched_part):
            progress(len(chosen))
    return Effects(tuple(place.cell for place in places), patched, target, source)


def _gradients(
    runs: PatchRuns, taken: Sequence[Point], readout: Readout
) -> tuple[dict[Point, list[Hidden]], dict[Point, list[Hidden]], Float[np.ndarray, " prompt"]]:
    """The target's states at each point, the readout's gradients there, and the readout.

    States and gradients have one entry for each forward of the readout.
    """
    own: dict[Point, list[Hidden]] = {point: [] for point in taken}
    moves: list[tuple[Point, Hidden]] = []

    def listening(point: Point) -> Callable[[Hidden], Hidden]:
        def add_nothing(states: Hidden) -> Hidden:
            own[point].append(states.detach())
            # A separate leaf tensor gives gradients for frozen and trainable models.
            moves.append((point, torch.zeros_like(states, requires_grad=True)))
            return states + moves[-1][1]

        return add_nothing

    with ExitStack() as stack, torch.enable_grad():
        for point in dict.fromkeys(taken):
            stack.enter_context(writing(point, listening(point)))
        values = readout(runs.target, runs.target_rows)
        # Rows are independent, so the gradient of the sum contains the gradient of each row.
        gradients = torch.autograd.grad(values.sum(), [move for _, move in moves])
    found: dict[Point, list[Hidden]] = {point: [] for point in own}
    for (point, _), gradient in zip(moves, gradients, strict=True):
        found[point].append(gradient)
    return own, found, numbers(values)
