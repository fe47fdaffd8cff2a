"""Interventions as context managers: while the block runs, states are edited on every forward.

    with ablate(lm, direction), add(lm, steering, layers=[12]):
        generate(lm, prompts)

Interventions compose. At one site, the intervention entered first acts first, and the next one gets
its output: set and then ablate gives zero; ablate and then set gives the value. Across sites, the
order is that of the forward. No tensor is edited in place, so gradients flow and other hooks keep
their states. Ablation around a training step is concept ablation fine-tuning (CAFT, Casademunt et
al. 2025). All hooks are removed when the block ends, also after an exception or Ctrl-C.

Three arguments define where an intervention acts:

- ``layers``: 0-based, all by default.
- ``sites``: see :mod:`interp.activations.sites`.
- ``positions``: see :mod:`interp.activations.window`. By default every token, including the tokens
  of the answer during generation, but not tokens of massive activation.

Tokens of massive activation (:mod:`interp.activations.massive`) hold a state that may be a hundred
times longer than the others; often it is the first token. Any edit of it disturbs attention at all
tokens, whatever the direction. By default an edit at all tokens spares such a token, from the layer
at which its state is massive; a first token that becomes massive is spared at all layers.
``include_massive=True`` edits these tokens too. Given ``positions`` are edited as they are. A model
without massive activations gives the same numbers either way.

A direction applies to all layers, or has one row for each of ``layers``, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypedDict, Unpack

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations import (
    RESIDUAL_IN,
    RESIDUAL_OUT,
    Block,
    Columns,
    Site,
    StreamNorms,
    first_token,
    is_massive,
    listed_layers,
    points_to_edit,
    selecting,
    stream_norms,
)
from interp.activations.window import NOWHERE
from interp.errors import InputError
from interp.interventions import edits
from interp.interventions.edits import Edit, orthonormal_basis
from interp.model import Hidden, LanguageModel, Point, reading, writing


def _first_write(block: Block) -> Point:
    parts = block.parts
    return parts.attention_write or parts.residual_mid or Point(block.layer, before=True)


def _last_write(block: Block) -> Point:
    return block.parts.mlp_write or Point(block.layer)


# A projection at all of these acts on everything that a block reads and writes. Where attention and
# MLP are no modules whose outputs are added to the stream, the same states are edited one step
# later: what the MLP reads after attention has written, and the block's output. (A block in which
# no trace finds attention and MLP is edited at its input and output.)
ALL_WRITES: tuple[Site, ...] = (
    RESIDUAL_IN,
    Site("attention_write", _first_write),
    Site("mlp_write", _last_write),
)

Array = Float[Tensor, "..."] | Float[np.ndarray, "..."]
PerLayer = float | Sequence[float] | Float[np.ndarray, " layer"] | Float[Tensor, " layer"]


class Where(TypedDict, total=False):
    """The keyword arguments of :func:`intervene` that define where an intervention acts."""

    layers: Sequence[int] | None
    sites: Sequence[Site]
    positions: Columns | None
    include_massive: bool


@contextmanager
def intervene(
    lm: LanguageModel,
    edit: Edit | Sequence[Edit],
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[Site] = (RESIDUAL_OUT,),
    positions: Columns | None = None,
    include_massive: bool = False,
) -> Iterator[None]:
    """Apply ``edit`` to states during every forward.

    Args:
        lm: the model; it may be in training or have an adapter.
        edit: function from (batch, token, d_model) to the same shape; or one for each of
            ``layers``.
        layers: 0-based decoder layers; all by default.
        sites: sites within each layer.
        positions: tokens to edit; by default all but those of massive activation.
        include_massive: edit tokens of massive activation too, if ``positions`` are not given.

    Raises:
        InputError: a layer is unknown, a site can only be read, or the numbers of edits and layers
            differ.
    """
    chosen = listed_layers(lm, layers)
    by_layer = list(edit) if isinstance(edit, Sequence) else [edit] * len(chosen)
    if len(by_layer) != len(chosen):
        raise InputError(
            f"{len(by_layer)} edits for {len(chosen)} layers; give one for each, or one for all"
        )
    places = points_to_edit(lm, chosen, sites)
    with ExitStack() as stack:
        allowed: list[Chooses | None] = [None] * len(chosen)
        if positions is not None:
            columns = stack.enter_context(selecting(lm, positions))
            allowed = [lambda _hidden, _point: columns()] * len(chosen)
        elif not include_massive:
            norms = stream_norms(lm)
            always = stack.enter_context(_first_tokens(lm, norms))
            stream = {
                point
                for site, of_site in zip(sites, places, strict=True)
                if not site.per_head
                for point in of_site
            }
            allowed = [stack.enter_context(_sparing(lm, i, norms, always, stream)) for i in chosen]
        for at_site in places:
            for point, at_layer, chooses in zip(at_site, by_layer, allowed, strict=True):

                def only(
                    hidden: Hidden,
                    edit: Edit = at_layer,
                    point: Point = point,
                    chooses: Chooses | None = chooses,
                ) -> Hidden:
                    if chooses is None:
                        return edit(hidden)
                    there = chooses(hidden, point).to(hidden.device)
                    there = there.reshape(*hidden.shape[:-1], 1)
                    return torch.where(there, edit(hidden), hidden)

                stack.enter_context(writing(point, only))
        yield


#: Which tokens of a forward are edited, from the states at a place.
Chooses = Callable[[Hidden, Point], Bool[Tensor, "..."]]


@contextmanager
def _first_tokens(lm: LanguageModel, norms: StreamNorms) -> Iterator[Callable[[], Tensor] | None]:
    """The first token of each row, if it becomes massive at some layer."""
    if not norms.first_token:
        yield None
        return
    with selecting(lm, first_token, required=False) as columns:
        yield columns


@contextmanager
def _sparing(
    lm: LanguageModel,
    layer: int,
    norms: StreamNorms,
    always: Callable[[], Tensor] | None,
    stream: Collection[Point],
) -> Iterator[Chooses]:
    """Chooses the tokens to edit: neither ``always`` spared nor massive at the layer or place.

    Vectors that interventions add to the stream are left out of states at the points of ``stream``.
    """
    start = Point(lm.layers[layer], before=True)
    entered: list[Bool[Tensor, "..."]] = []

    def read(_: int, hidden: Hidden) -> None:
        spared = is_massive(hidden, norms.limit_into(layer), _inserted(lm))
        first = NOWHERE if always is None else always()
        if first.numel() == spared.numel():  # in a forward that begins inside, it is another one's
            spared = spared | first.to(spared.device).reshape(spared.shape)
        entered[:] = [spared]

    def chooses(hidden: Hidden, point: Point) -> Bool[Tensor, "..."]:
        (spared,) = entered
        if point != start:
            on_stream = point in stream and hidden.shape[-1] == lm.d_model
            inserted = _inserted(lm) if on_stream else None
            here = is_massive(hidden, norms.limit_in(layer), inserted)
            spared = spared.to(here.device).reshape(here.shape) | here
        return ~spared

    with reading([start], read):
        yield chooses


def _inserted(lm: LanguageModel) -> Float[Tensor, "rank d_model"] | None:
    """A basis of what active interventions add: a token that they made long is not massive."""
    found: list[Tensor] = lm.found_out.get(INSERTED, [])
    return orthonormal_basis(torch.cat(found)) if found else None


INSERTED = "vectors that interventions add"


@contextmanager
def _inserting(
    lm: LanguageModel, vectors: Array, edit: Edit | Sequence[Edit], **where: Unpack[Where]
) -> Iterator[None]:
    """:func:`intervene` with an edit that may make states longer along ``vectors``.

    The states of heads have axes that are not those of the stream, even at equal width.
    """
    heads = any(site.per_head for site in where.get("sites", ()))
    rows = torch.as_tensor(vectors).detach().cpu().double()
    rows = rows.reshape(-1, rows.shape[-1])
    active: list[Tensor] = lm.found_out.setdefault(INSERTED, [])
    with ExitStack() as stack:
        if rows.any() and not heads and rows.shape[-1] == lm.d_model:
            active.append(rows)
            stack.callback(lambda: active.pop(next(i for i, x in enumerate(active) if x is rows)))
        stack.enter_context(intervene(lm, edit, **where))
        yield


def ablate(
    lm: LanguageModel, direction: Array, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Remove the component along ``direction``; by default from the whole residual stream.

    This context manager does not change the weights; the end of the block removes the hooks. The
    default is Arditi et al.'s directional ablation (2024, arXiv 2406.11717, section 2.4): at the
    input of every block, and at its attention and MLP output. In a block in which a trace finds no
    attention and MLP (Mamba), it is at the block's input and output.

    Tokens of massive activation are spared (often the first token; ``sp.massive_activations(lm)``
    names them): any edit of them disturbs attention at every token. ``include_massive=True`` edits
    them too, like Arditi et al.

    Args:
        lm: the model; it may be in training or have an adapter.
        direction: (d_model), of any length; or one row for each of ``layers``.
        where: ``layers`` (0-based; default: all), ``sites``, ``positions`` and
            ``include_massive``; see the module's docstring.

    Raises:
        InputError: a layer is unknown, or the numbers of directions and layers differ.

    Example:
        >>> with sp.ablate(lm, dirs["safety", 2]):
        ...     changed = sp.generate(lm, ["Kindly explain how to bake bread."])
    """
    where.setdefault("sites", ALL_WRITES)
    return intervene(lm, _each(edits.ablating, direction), **where)


def add(
    lm: LanguageModel, vector: Array, coefficient: PerLayer = 1.0, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Add ``coefficient`` times ``vector`` to the residual stream, at the given layers.

    Tokens of massive activation are spared, unless ``include_massive=True``.

    Args:
        lm: the model.
        vector: (d_model), in the states' unit, not normalised; or one row for each of ``layers``.
        coefficient: factor of the vector; or one for each of ``layers``.
        where: ``layers`` (0-based, required), ``sites``, ``positions`` and
            ``include_massive``; see the module's docstring.

    Raises:
        InputError: ``layers`` is missing; additions at several layers accumulate, so there is no
            default.

    Example:
        >>> with sp.add(lm, dirs["safety", 2], -4.0, layers=[2]):
        ...     steered = sp.generate(lm, ["Kindly explain how to bake bread."])
    """
    if where.get("layers") is None:
        raise InputError("additions at several layers accumulate; choose layers with layers=[…]")
    return _inserting(lm, vector, _each(edits.adding, vector, coefficient), **where)


def set_component(
    lm: LanguageModel, direction: Array, value: PerLayer, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Set the component along ``direction`` to ``value``, in the states' unit.

    Tokens of massive activation are spared, unless ``include_massive=True``.

    Args:
        lm: the model.
        direction: (d_model), of any length; or one row for each of ``layers``.
        value: the component along the unit direction; or one for each of ``layers``.
        where: ``layers`` (0-based; default: all), ``sites``, ``positions`` and
            ``include_massive``; see the module's docstring.

    Raises:
        InputError: a layer is unknown, or the numbers of values and layers differ.

    Source:
        Affine editing: Marshall et al. 2024, arXiv 2411.09003.

    Example:
        >>> with sp.set_component(lm, dirs["safety", 1], 0.0, layers=[1]):
        ...     changed = sp.generate(lm, ["Kindly explain how to bake bread."])
    """
    return _inserting(lm, direction, _each(edits.setting, direction, value), **where)


def project_out(
    lm: LanguageModel, vectors: Array, **where: Unpack[Where]
) -> AbstractContextManager[None]:
    """Remove the projection onto the span of ``vectors``; by default from the whole stream."""
    where.setdefault("sites", ALL_WRITES)
    return intervene(lm, _each(edits.projecting_out, vectors, rank=2), **where)


def _each(
    make: Callable[..., Edit], vectors: Array, *numbers: PerLayer, rank: int = 1
) -> Edit | list[Edit]:
    """One edit; or one for each layer if the vectors or a number are given per layer."""
    vectors = vectors if isinstance(vectors, torch.Tensor) else np.asarray(vectors)
    values = list(map(_numbers, numbers))
    counts = {len(vectors)} if vectors.ndim > rank else set()
    counts |= {len(value) for value in values if value.ndim}
    if not counts:
        return make(vectors, *map(float, values))
    if len(counts) > 1:
        raise InputError(f"vectors and values for {sorted(counts)} layers; give as many of each")
    (count,) = counts
    rows = vectors if vectors.ndim > rank else [vectors] * count
    columns = [np.broadcast_to(value, count).tolist() for value in values]
    return [make(row, *given) for row, *given in zip(rows, *columns, strict=True)]


def _numbers(given: PerLayer) -> Float[np.ndarray, "..."]:
    """One number or one for each layer, as an array; infinite bounds are numbers."""
    values = np.asarray(given.tolist() if isinstance(given, Tensor) else given)
    if values.dtype.kind not in "iuf" or np.isnan(values).any() or values.ndim > 1:
        raise InputError(f"{given!r}; expected a number, or one for each layer")
    return values.astype(np.float64)
