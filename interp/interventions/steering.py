"""Interventions as context managers: while the block runs, states are edited on every forward.

    with ablate(lm, direction), add(lm, steering, layers=[12]):
        generate(lm, prompts)

They compose. At one place, the first one entered acts first, and the next one gets its output: set
and then ablate gives zero; ablate and then set gives the value. Across places, the order is that of
the forward. No tensor is edited in place, so gradients flow and other hooks keep their states.
Ablation around a training step is concept ablation fine-tuning (CAFT, Casademunt et al. 2025). If
an exception or Ctrl-C ends a block, all hooks are removed.

Where: ``layers`` (0-based, all by default), ``sites`` (:mod:`interp.activations.sites`) and
``positions`` (:mod:`interp.activations.window`; every token by default, those of the answer as they
are generated included). Directions are of one layer and used at all, or have one row for each of
``layers``, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations import (
    ATTENTION_OUT,
    MLP_OUT,
    RESIDUAL_IN,
    RESIDUAL_OUT,
    Columns,
    Site,
    points,
    selecting,
)
from interp.errors import InputError
from interp.interventions import edits
from interp.interventions.edits import Edit
from interp.model import Hidden, LanguageModel, writing

# After an edit at each of these, no block has written what was removed back into the stream.
ALL_WRITES: tuple[Site, ...] = (RESIDUAL_IN, ATTENTION_OUT, MLP_OUT)

Array = Float[Tensor, "..."] | Float[np.ndarray, "..."]
PerLayer = float | Sequence[float]


class Where(TypedDict, total=False):
    """Where an intervention acts, as :func:`intervene` takes it."""

    layers: Sequence[int] | None
    sites: Sequence[Site]
    positions: Columns | None


@contextmanager
def intervene(
    lm: LanguageModel,
    edit: Edit | Sequence[Edit],
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[Site] = (RESIDUAL_OUT,),
    positions: Columns | None = None,
) -> Iterator[None]:
    """Replace states by ``edit`` of them.

    Args:
        lm: the model; also one that is being trained or that an adapter wraps.
        edit: (batch, token, d_model) to the same shape; a sequence has one for each of ``layers``.
        layers: 0-based decoder layers; all by default.
        sites: where in them.
        positions: which tokens; all by default.

    Raises:
        InputError: an unknown layer, or not as many edits as layers.
    """
    chosen = range(lm.n_layers) if layers is None else layers
    if not chosen or min(chosen) < 0 or max(chosen) >= lm.n_layers:
        raise InputError(f"layers {list(chosen)} asked for; the model has 0 … {lm.n_layers - 1}")
    by_layer = list(edit) if isinstance(edit, Sequence) else [edit] * len(chosen)
    if len(by_layer) != len(chosen):
        raise InputError(
            f"{len(by_layer)} edits for {len(chosen)} layers; give one for each, or one for all"
        )
    places = points(lm, chosen, sites)
    with ExitStack() as stack:
        columns = stack.enter_context(selecting(lm, positions)) if positions else None
        for at_site in places:
            for point, at_layer in zip(at_site, by_layer, strict=True):

                def only(hidden: Hidden, edit: Edit = at_layer) -> Hidden:
                    if columns is None:
                        return edit(hidden)
                    return torch.where(
                        columns().reshape(*hidden.shape[:-1], 1), edit(hidden), hidden
                    )

                stack.enter_context(writing(point, only))
        yield


def ablate(
    lm: LanguageModel, direction: Array, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Remove the component along ``direction``; by default from the whole residual stream.

    A context manager: the weights stay as they are, and the block's end removes the hooks. The
    default is Arditi et al.'s directional ablation (2024, arXiv 2406.11717, section 2.4): at the
    input of every block, and at its attention and MLP output.

    Args:
        lm: the model; also one that is being trained or that an adapter wraps.
        direction: (d_model), of any length; or one row for each of ``layers``.
        where: ``layers`` (0-based; default: all), ``sites`` and ``positions``, as the module says.

    Raises:
        InputError: an unknown layer, or not as many directions as layers.

    Example:
        >>> with sp.ablate(lm, dirs["safety", 2]):
        ...     changed = sp.generate(lm, ["Kindly explain how to bake bread."])
    """
    where.setdefault("sites", ALL_WRITES)
    return intervene(lm, _each(edits.ablating, direction), **where)


def add(
    lm: LanguageModel, vector: Array, coefficient: PerLayer = 1.0, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Add ``coefficient`` times ``vector`` to the residual stream, at the layers given.

    Args:
        lm: the model.
        vector: (d_model), in the states' own unit: its length counts.
        coefficient: of the vector; or one for each of ``layers``.
        where: ``layers`` (0-based), ``sites`` and ``positions``, as the module says.

    Raises:
        InputError: no layers are given: what is added at each of them adds up.

    Example:
        >>> with sp.add(lm, dirs["safety", 2], -4.0, layers=[2]):
        ...     steered = sp.generate(lm, ["Kindly explain how to bake bread."])
    """
    if where.get("layers") is None:
        raise InputError("additions at several layers accumulate; choose layers with layers=[…]")
    return intervene(lm, _each(edits.adding, vector, coefficient), **where)


def set_component(
    lm: LanguageModel, direction: Array, value: PerLayer, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Set the component along ``direction`` to ``value``, in the states' own unit.

    Args:
        lm: the model.
        direction: (d_model), of any length; or one row for each of ``layers``.
        value: the component along the unit direction; or one for each of ``layers``.
        where: ``layers`` (0-based; default: all), ``sites`` and ``positions``, as the module says.

    Raises:
        InputError: an unknown layer, or not as many values as layers.

    Source:
        Affine editing: Marshall et al. 2024, arXiv 2411.09003.

    Example:
        >>> with sp.set_component(lm, dirs["safety", 1], 0.0, layers=[1]):
        ...     changed = sp.generate(lm, ["Kindly explain how to bake bread."])
    """
    return intervene(lm, _each(edits.setting, direction, value), **where)


def clamp(
    lm: LanguageModel,
    direction: Array,
    low: PerLayer = -np.inf,
    high: PerLayer = np.inf,
    **where: Unpack[Where],
) -> AbstractContextManager[None]:
    """Keep the component along ``direction`` within [``low``, ``high``]."""
    return intervene(lm, _each(edits.clamping, direction, low, high), **where)


def project_onto(
    lm: LanguageModel, vectors: Array, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Keep only the span of ``vectors``: (vector, d_model), or one such array for each layer."""
    return intervene(lm, _each(edits.projecting_onto, vectors, rank=2), **where)


def project_out(
    lm: LanguageModel, vectors: Array, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Remove the span of ``vectors``; by default from the whole residual stream."""
    where.setdefault("sites", ALL_WRITES)
    return intervene(lm, _each(edits.projecting_out, vectors, rank=2), **where)


def _each(
    make: Callable[..., Edit], vectors: Array, *numbers: PerLayer, rank: int = 1
) -> Edit | list[Edit]:
    """One edit, or one for each layer where the vectors or a number differ between layers."""
    counts = {len(vectors)} if vectors.ndim > rank else set()
    counts |= {len(number) for number in numbers if not isinstance(number, (int, float))}
    if not counts:
        return make(vectors, *numbers)
    if len(counts) > 1:
        raise InputError(f"vectors and values for {sorted(counts)} layers; give as many of each")
    (count,) = counts
    rows = vectors if vectors.ndim > rank else [vectors] * count
    columns = [[n] * count if isinstance(n, (int, float)) else n for n in numbers]
    return [make(row, *values) for row, *values in zip(rows, *columns, strict=True)]
