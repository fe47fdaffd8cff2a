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
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.causes.change import MOVES, Change, ClassMeans
from interp.causes.undoing import read_from, runs_of, states_at, with_last_moved
from interp.model import LanguageModel, undisturbed
from interp.patching import PatchRuns, by_layer, read_all, weights_replaced
from interp.readout import Readout

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
    batch_size: int = 64,
    seed: int = 0,
) -> Float[np.ndarray, " draw"]:
    """Share of the loss that each control edit restores, the mean over both models.

    Args:
        base, after, texts, change, readout: as for :func:`~interp.causes.undoing.undo`.
        layer: 0-based.
        cause: one of :data:`~interp.causes.change.CAUSES`; the controls are as large as its edit.
        draws: number of controls.
        batch_size: prompts in one forward.
        seed: seed of the draws.
    """
    runs = runs_of(base, after, texts, change)
    rng = np.random.default_rng(seed)
    with undisturbed(base.model), undisturbed(after.model):
        if cause in MOVES:
            means = change.means(layer)
            drawn = _directions(change, layer, draws, rng)
            return _moved(runs, layer, means, cause, drawn, readout, batch_size)
        return _reweighted(runs, layer, draws, seed, readout, batch_size)


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
    batch_size: int = 64,
) -> float:
    """Share restored by the edit that undoes ``cause`` in another contrast.

    The edit is scaled to the length of this contrast's edit. The share is the mean over
    both models, as for the controls. The effect of this edit is not specific to this contrast.
    """
    runs = runs_of(base, after, texts, change)
    direction = _unit(foreign.means(layer).restoring(cause))
    with undisturbed(base.model), undisturbed(after.model):
        found = _moved(runs, layer, change.means(layer), cause, [direction], readout, batch_size)
    return float(found[0])


def _directions(
    change: Change, layer: int, draws: int, rng: np.random.Generator
) -> list[Direction]:
    states = change.after.states[:, change.layers.index(layer)]
    # Centred by class; otherwise the difference of the class means would dominate the covariance.
    for label in (0, 1):
        states[change.after.classes == label] -= states[change.after.classes == label].mean(axis=0)
    return [_unit(rng.normal(size=len(states)) @ states) for _ in range(draws)]


def _moved(
    runs: PatchRuns,
    layer: int,
    means: ClassMeans,
    cause: str,
    directions: Sequence[Direction],
    readout: Readout,
    batch_size: int,
) -> Float[np.ndarray, " draw"]:
    lengths = [float(np.linalg.norm(means.restoring(cause)))]
    lengths.append(float(np.linalg.norm(means.removing(cause))))
    gained = np.zeros((len(directions), len(runs.source_rows)))
    gap = np.zeros(len(runs.source_rows))

    def read(chosen: list[int], part: PatchRuns) -> None:
        states, own = states_at(part, layer, readout)
        gap[chosen] = own["base"] - own["after"]
        for draw, direction in enumerate(directions):
            gained[draw, chosen] = 0.0
            for name, sign, length in (("after", 1, lengths[0]), ("base", -1, lengths[1])):
                move = np.broadcast_to(sign * length * direction, (len(chosen), len(direction)))
                moved = with_last_moved(part, states[name], move)
                values = read_from(part, name, layer, moved, readout)
                gained[draw, chosen] += sign * (values - own[name]) / 2

    for _ in runs.in_batches(batch_size, read):
        pass
    return gained.mean(axis=1) / gap.mean()


def _reweighted(
    runs: PatchRuns, layer: int, draws: int, seed: int, readout: Readout, batch_size: int
) -> Float[np.ndarray, " draw"]:
    base, after = runs.source.model, runs.target.model
    lengths = {
        name: float((base.get_parameter(name) - after.get_parameter(name)).float().norm())
        for name in _read_later(runs.source, layer)
    }
    lengths = {name: length for name, length in lengths.items() if length > 0}
    if not lengths:
        return np.zeros(draws)

    def read(lm: LanguageModel) -> float:
        return float(read_all(lm, runs.source_rows, readout, batch_size).mean())

    own = read(runs.source), read(runs.target)
    found = np.empty(draws)
    for draw in range(draws):
        change = 0.0
        for model, lm, sign, value in (
            (after, runs.target, 1, own[1]),
            (base, runs.source, -1, own[0]),
        ):
            generator = torch.Generator().manual_seed(seed * draws + draw)
            noisy = partial(_noisy, lengths, sign, generator)
            with weights_replaced(model, lengths, noisy):
                change += sign * (read(lm) - value) / 2
        found[draw] = change / (own[0] - own[1])
    return found


def _read_later(lm: LanguageModel, layer: int) -> list[str]:
    """Names of the parameters after ``layer``: later layers, final norm and head."""
    embedding = {id(p) for p in lm.model.get_input_embeddings().parameters()}
    return [
        name
        for cell, names in by_layer(lm).items()
        for name in names
        if (cell.layer is not None and cell.layer > layer)
        or (cell.layer is None and id(lm.model.get_parameter(name)) not in embedding)
    ]


def _noisy(
    lengths: Mapping[str, float], sign: int, generator: torch.Generator, name: str, own: Tensor
) -> Tensor:
    """A parameter plus noise of the given norm."""
    noise = torch.randn(own.shape, generator=generator)
    noise *= sign * lengths[name] / noise.norm()
    return (own.float() + noise.to(own.device)).to(own)


def _unit(vector: np.ndarray) -> Direction:
    return vector / max(float(np.linalg.norm(vector)), 1e-300)
