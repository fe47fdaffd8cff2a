r"""Random control edits, with the size of the edits that undo a cause.

A cause may change the states (rotation, gain, offset) or the later layers (routing):

- States: each control adds a vector as long as the edit. Its direction is drawn from the covariance
  of the after-model's states at the layer, :math:`\sum_i g_i (h_i - \bar h)` with standard normal
  :math:`g_i`. Isotropic directions would lead to regions without states.
- Routing: each control adds noise to the later layers' weights, of the same norm as the change of
  each parameter.

Like the edit itself, every draw is applied to both models: to the after-model, where it should
restore the readout, and with the opposite sign to the base, where it should reduce the readout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.causes.change import MOVES, Change, ClassMeans
from interp.causes.stitched import AFTER, BASE, StitchedPrompts
from interp.causes.undoing import runs_of
from interp.model import LanguageModel, probe_tokens, stopping_after, undisturbed
from interp.patching import PatchRuns, by_layer, moved_by, numbers, weights_replaced
from interp.readout import Readout
from interp.statistics import unit

Direction = Float[np.ndarray, " d_model"]


def control_effects(
    base: LanguageModel,
    after: LanguageModel,
    texts: Sequence[str],
    change: Change,
    readout: Readout,
    *,
    layer: int,
    cause: str,
    draws: int = 100,
    stitched: StitchedPrompts | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> Float[np.ndarray, " draw"]:
    """Share of the loss that each control edit restores, the mean over both models.

    Args:
        base, after, texts, change, readout: as for :func:`~interp.causes.undoing.undo`.
        layer: 0-based.
        cause: one of :data:`~interp.causes.change.CAUSES`; the controls are as large as its edit.
        draws: number of controls.
        stitched: the stitched models over the prompts that are read; over all by default.
        batch_size: prompts in one forward.
        seed: seed of the draws.
    """
    if stitched is None:
        stitched = StitchedPrompts(runs_of(base, after, texts, change), readout, [layer])
    rng = np.random.default_rng(seed)
    with undisturbed(base.model), undisturbed(after.model):
        if cause in MOVES:
            drawn = _directions(change, layer, draws, rng)
            return _moved(stitched, layer, change.means(layer), cause, drawn, batch_size)
        return _reweighted(stitched, layer, draws, seed, batch_size)


def foreign_effect(
    base: LanguageModel,
    after: LanguageModel,
    texts: Sequence[str],
    change: Change,
    readout: Readout,
    foreign: Change,
    *,
    layer: int,
    cause: str,
    stitched: StitchedPrompts | None = None,
    batch_size: int = 64,
) -> float:
    """Share restored by the edit that undoes ``cause`` in another contrast.

    The edit is scaled to the length of this contrast's edit. The share is the mean over
    both models, as for the controls. The effect of this edit is not specific to this contrast.
    """
    if stitched is None:
        stitched = StitchedPrompts(runs_of(base, after, texts, change), readout, [layer])
    direction = unit(foreign.means(layer).restoring(cause))
    with undisturbed(base.model), undisturbed(after.model):
        found = _moved(stitched, layer, change.means(layer), cause, [direction], batch_size)
    return float(found[0])


def _directions(
    change: Change, layer: int, draws: int, rng: np.random.Generator
) -> list[Direction]:
    states = change.after.states[:, change.layers.index(layer)]
    # Centred by class; otherwise the difference of the class means would dominate the covariance.
    for label in (0, 1):
        states[change.after.classes == label] -= states[change.after.classes == label].mean(axis=0)
    return [unit(rng.normal(size=len(states)) @ states) for _ in range(draws)]


def _moved(
    stitched: StitchedPrompts,
    layer: int,
    means: ClassMeans,
    cause: str,
    directions: Sequence[Direction],
    batch_size: int,
) -> Float[np.ndarray, " draw"]:
    lengths = {
        AFTER: float(np.linalg.norm(means.restoring(cause))),
        BASE: -float(np.linalg.norm(means.removing(cause))),
    }

    def read(chosen: list[int], _: PatchRuns) -> tuple[np.ndarray, np.ndarray]:
        models = stitched.of(chosen)
        gained = np.zeros((len(directions), len(chosen)))
        # Draws share a forward, unless memory allows a part of the prompts only.
        whole = len(chosen) == len(stitched.runs.source_rows)
        size = max(1, batch_size // len(chosen)) if whole else 1
        for first in range(0, len(directions), size):
            some = np.stack(directions[first : first + size])
            for name, length in lengths.items():
                move = torch.from_numpy(np.repeat(length * some, len(chosen), axis=0))
                values = numbers(models.read(name, name, layer, move)).reshape(len(some), -1)
                gained[first : first + size] += np.sign(length) * (values - models.own[name]) / 2
        return gained, models.own[BASE] - models.own[AFTER]

    parts = [found for _, found in stitched.runs.in_batches(batch_size, read)]
    gained, gap = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return gained.mean(axis=1) / gap.mean()


def _reweighted(
    stitched: StitchedPrompts, layer: int, draws: int, seed: int, batch_size: int
) -> Float[np.ndarray, " draw"]:
    runs = stitched.runs
    base, after = runs.source.model, runs.target.model
    lengths = {
        name: float((base.get_parameter(name) - after.get_parameter(name)).float().norm())
        for name in _read_later(runs.source, layer)
    }
    lengths = {name: length for name, length in lengths.items() if length > 0}
    if not lengths:
        return np.zeros(draws)

    def read(chosen: list[int], _: PatchRuns) -> tuple[np.ndarray, np.ndarray]:
        models = stitched.of(chosen)
        found = np.zeros((draws, len(chosen)))
        for draw in range(draws):
            for model, name, sign in ((after, AFTER, 1), (base, BASE, -1)):
                generator = torch.Generator().manual_seed(seed * draws + draw)
                noisy = partial(_noisy, lengths, sign, generator)
                with weights_replaced(model, lengths, noisy):
                    value = numbers(models.again(name, layer))
                found[draw] += sign * (value - models.own[name]) / 2
        return found, models.own[BASE] - models.own[AFTER]

    parts = [found for _, found in runs.in_batches(batch_size, read)]
    gained, gap = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    return gained.mean(axis=1) / gap.mean()


def _read_later(lm: LanguageModel, layer: int) -> list[str]:
    """Names of the parameters after ``layer``: later layers, final norm and head."""
    before = {id(p) for module in _before_layers(lm) for p in module.parameters(recurse=False)}
    return [
        name
        for cell, names in by_layer(lm).items()
        for name in names
        if (cell.layer is not None and cell.layer > layer)
        or (cell.layer is None and id(lm.model.get_parameter(name)) not in before)
    ]


def _before_layers(lm: LanguageModel) -> list[nn.Module]:
    """The modules that run before the first layer: embeddings of tokens and of positions."""
    inside = {id(module) for module in lm.layers.modules()}
    found: list[nn.Module] = [lm.model.get_input_embeddings()]
    with ExitStack() as stack:
        for module in lm.model.modules():
            if id(module) not in inside:
                ran = partial(_noted, found)
                stack.enter_context(module.register_forward_hook(ran))
        stack.enter_context(stopping_after(lm.layers[0]))
        lm.logits(lm.chat.pad([probe_tokens(lm)], lm.device), keep=1)
    return found


def _noted(found: list[nn.Module], module: nn.Module, *_: object) -> None:
    found.append(module)


def _noisy(
    lengths: Mapping[str, float], sign: int, generator: torch.Generator, name: str, own: Tensor
) -> Tensor:
    """A parameter plus noise of the given norm."""
    noise = torch.randn(own.shape, generator=generator)
    noise *= sign * lengths[name] / noise.norm()
    return moved_by(own, noise.to(own.device))
