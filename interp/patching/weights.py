r"""Weight patching: run the target with one module's weights from the source.

Patching base into after, one module at a time, shows which change is necessary: it measures how
much of the readout returns. Patching after into base applies only one change and shows which change
is sufficient. Patched weights, unlike patched states, do not force states to values that the model
does not produce.

Any edit of the same size may have an effect, so the controls are random edits of equal size. A
control applies signed permutations to the rows and columns of the change :math:`\Delta` of a weight
matrix: :math:`P \Delta Q` with orthogonal :math:`P` and :math:`Q`. The control keeps the norm and
the singular values of the change (a change of rank 8 keeps rank 8), with other directions.
Its effect estimates the effect of a random edit of the same size and rank.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import InputError
from interp.model import LanguageModel, Point, Tokens, require_plain_weights, undisturbed
from interp.patching.effects import Cell, Effects
from interp.patching.places import read_out
from interp.patching.recording import numbers, recording_of
from interp.patching.rounding import moved_by
from interp.patching.runs import PatchRuns
from interp.progress import Advance, silent
from interp.readout import Readout

# What to do about packed weights.
UNPACKED = "load the model without quantisation (its checkpoint in bfloat16)"

Grouping = Callable[[LanguageModel], Mapping[Cell, Sequence[str]]]


def by_module(lm: LanguageModel) -> dict[Cell, list[str]]:
    """Parameters by layer and by module of the layer (attention, MLP, each norm), with its name.

    Modules outside the layers (embeddings, final norm, head) have cells without a layer.
    """
    return _grouped(lm, depth=1)


def by_layer(lm: LanguageModel) -> dict[Cell, list[str]]:
    """Parameters by layer; parameters outside the layers by module."""
    return _grouped(lm, depth=0)


def by_matrix(lm: LanguageModel) -> dict[Cell, list[str]]:
    """Parameters by layer and innermost module: each projection with its bias."""
    return _grouped(lm, depth=None)


def in_layers(grouping: Grouping, layers: Collection[int]) -> Grouping:
    """``grouping`` restricted to ``layers``; groups outside all layers stay."""

    def chosen(lm: LanguageModel) -> dict[Cell, Sequence[str]]:
        groups = grouping(lm).items()
        return {cell: names for cell, names in groups if cell.layer is None or cell.layer in layers}

    return chosen


def patch_weights(
    runs: PatchRuns,
    readout: Readout,
    *,
    grouping: Grouping = by_module,
    batch_size: int = 64,
    controls: int = 0,
    seed: int = 0,
    progress: Advance = silent,
) -> Effects:
    """Run the target with the source's weights in one group at a time, and measure the readout.

    Args:
        runs: runs of two models with equal parameter names and shapes, adapters merged.
        readout: one number per prompt; see :mod:`interp.readout`.
        grouping: function that groups the parameters into cells.
        batch_size: prompts in one forward.
        controls: number of random edits per group, each as large as the group's change; each
            costs one pass over the prompts.
        seed: seed of the controls.
        progress: called with the number of groups just done, in each batch of prompts.

    Raises:
        InputError: the models' parameters have different names or shapes.
        ModelError: the weights are packed.
    """
    source, target = runs.source, runs.target
    for lm in (source, target):
        require_plain_weights(lm.model, "weight patching", UNPACKED)
    _check_parameters(source, target)
    groups = grouping(target)
    rows = runs.target_rows
    # One seed per draw and group, so skipped groups do not change the others' draws.
    seeds = np.random.default_rng(seed).integers(2**63, size=(controls, len(groups)))
    changed = {
        cell: [name for name in names if _differs(source.model, target.model, name)]
        for cell, names in groups.items()
    }
    prompts = len(rows)
    given, own = np.empty(prompts), np.empty(prompts)
    patched = np.empty((len(groups), prompts))
    moved = np.empty((controls, len(groups), prompts))

    def patched_part(chosen: list[int], part: PatchRuns) -> None:
        given[chosen] = read_out(source, part.source_rows, readout)
        reader = _Reader(target, part.target_rows, readout, changed)
        # Unchanged weights cannot have an effect.
        own[chosen] = patched[:, chosen] = moved[:, :, chosen] = reader.own
        for i, (cell, names) in enumerate(changed.items()):
            if names:
                with weights_from(source.model, target.model, names):
                    patched[i, chosen] = reader.read(cell)
                for draw in range(controls):
                    edit = int(seeds[draw, i])
                    with weights_scrambled(source.model, target.model, names, edit):
                        moved[draw, i, chosen] = reader.read(cell)
            progress(1)

    with undisturbed(source.model), undisturbed(target.model):
        for _ in runs.in_batches(batch_size, patched_part):
            pass
    return Effects(tuple(groups), patched, own, given, moved if controls else None)


class _Reader:
    """A readout with the weights of one cell changed: only its layer and later ones run again."""

    def __init__(
        self, lm: LanguageModel, rows: Sequence[Tokens], readout: Readout, cells: Iterable[Cell]
    ) -> None:
        self._lm, self._rows, self._readout = lm, rows, readout
        entries = {cell.layer - 1 for cell in cells if cell.layer}
        places = [Point(lm.layers[i]) for i in sorted(entries)]
        self._recording = recording_of(lm, rows, readout, places)
        self.own = (
            read_out(lm, rows, readout) if self._recording is None else self._recording.values
        )

    def read(self, cell: Cell) -> Float[np.ndarray, " prompt"]:
        if self._recording is None:
            return read_out(self._lm, self._rows, self._readout)
        # Weights outside the layers may come before the first of them.
        return numbers(self._recording.again(cell.layer - 1 if cell.layer else -1))


def weights_from(
    source: nn.Module, target: nn.Module, names: Sequence[str]
) -> AbstractContextManager[None]:
    """Inside the block the named parameters of ``target`` have the source's values.

    If both models have the same device and dtype, nothing is copied: the target's parameters share
    the source's memory. The end of the block, also after an error, restores the target's
    parameters. Do not train inside the block.

    Raises:
        ModelError: one of them is packed, in either model.
    """
    require_plain_weights(source, "a change of weights", UNPACKED, names)
    return weights_replaced(
        target, names, lambda name, own: source.get_parameter(name).data.to(own)
    )


def weights_scrambled(
    source: nn.Module, target: nn.Module, names: Sequence[str], seed: int
) -> AbstractContextManager[None]:
    """Inside the block the target's named parameters have a random change.

    The change has the norm of source minus target and, up to the rounding of 16-bit weights, its
    singular values in proportion; see :func:`scrambled`. The end of the block, also after an error,
    restores the parameters. Do not train inside the block.

    Raises:
        ModelError: one of them is packed, in either model.
    """
    require_plain_weights(source, "a change of weights", UNPACKED, names)
    generator = torch.Generator().manual_seed(seed)

    def moved(name: str, own: Tensor) -> Tensor:
        change = source.get_parameter(name).data.to(own).float() - own.float()
        return moved_by(own, scrambled(change, generator))

    return weights_replaced(target, names, moved)


def scrambled(change: Float[Tensor, "*size"], generator: torch.Generator) -> Float[Tensor, "*size"]:
    """``change`` with a random permutation and random signs along each axis."""
    for axis, size in enumerate(change.shape):
        order = torch.randperm(size, generator=generator).to(change.device)
        signs = 2.0 * torch.randint(2, (size,), generator=generator) - 1
        shape = [1] * change.ndim
        shape[axis] = size
        change = change.index_select(axis, order) * signs.to(change).reshape(shape)
    return change


@contextmanager
def weights_replaced(
    model: nn.Module, names: Iterable[str], value: Callable[[str, Tensor], Tensor]
) -> Iterator[None]:
    """Inside the block each named parameter has the value ``value(name, original)``.

    The end of the block, also after an error, restores the parameters. Do not train inside the
    block.

    Raises:
        ModelError: one of them is packed.
    """
    names = list(names)
    require_plain_weights(model, "a change of weights", UNPACKED, names)
    own = {name: model.get_parameter(name).data for name in names}
    try:
        for name, tensor in own.items():
            model.get_parameter(name).data = value(name, tensor)
        yield
    finally:
        for name, tensor in own.items():
            model.get_parameter(name).data = tensor


def _grouped(lm: LanguageModel, depth: int | None) -> dict[Cell, list[str]]:
    """Parameters by cell.

    ``depth`` is the number of module names inside a layer that define a group; None uses all.
    """
    path = next(name for name, module in lm.model.named_modules() if module is lm.layers)
    groups: dict[Cell, list[str]] = {}
    for name, _ in lm.model.named_parameters():
        if name.startswith(f"{path}."):
            layer, *inside = name.removeprefix(f"{path}.").split(".")
            kept = inside[:-1] if depth is None else inside[:-1][:depth]
            cell = Cell(int(layer), ".".join(kept) or "layer")
        else:
            cell = Cell(None, name.rpartition(".")[0])
        groups.setdefault(cell, []).append(name)
    return groups


def _check_parameters(source: LanguageModel, target: LanguageModel) -> None:
    shapes = [{n: p.shape for n, p in lm.model.named_parameters()} for lm in (source, target)]
    differing = [n for n in shapes[0] | shapes[1] if shapes[0].get(n) != shapes[1].get(n)]
    if differing:
        raise InputError(
            f"{source.name} and {target.name} differ in {len(differing)} parameters, for instance "
            f"{differing[0]}; both must be of one architecture, with adapters merged"
        )


def _differs(source: nn.Module, target: nn.Module, name: str) -> bool:
    given, own = source.get_parameter(name), target.get_parameter(name)
    return not torch.equal(given.to(own), own)
