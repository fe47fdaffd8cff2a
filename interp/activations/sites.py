"""The sites of a decoder layer: the residual stream, the outputs added to it, and the heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from torch import nn

from interp.activations.dissection import Parts, dissect
from interp.errors import InputError
from interp.model import LanguageModel, Point


@dataclass(frozen=True)
class Block:
    """A decoder layer to search for a site.

    Attributes:
        layer: the module.
        number: its 0-based number.
        dissected: the parts of all layers; the first call runs a small forward.
    """

    layer: nn.Module
    number: int
    dissected: Callable[[], Mapping[int, Parts]] = field(repr=False)

    @property
    def parts(self) -> Parts:
        return self.dissected()[self.number]


@dataclass(frozen=True)
class Site:
    """A kind of place that every decoder layer may have.

    Example of a custom site: ``Site("gate", lambda block: Point(block.layer.mlp.gate_proj))``.

    Attributes:
        name: its name in tables and files.
        find: returns its place in a block, or ``None`` if the block lacks it.
        per_head: the states are the concatenated states of the attention heads.
        read_only: an edit there would change another quantity than the one that is read.
    """

    name: str
    find: Callable[[Block], Point | None]
    per_head: bool = False
    read_only: bool = False


RESIDUAL_IN = Site("residual_in", lambda block: Point(block.layer, before=True))
RESIDUAL_MID = Site("residual_mid", lambda block: block.parts.residual_mid, read_only=True)
"""After attention, before the MLP. Read-only: where a norm reads the stream, an edit of the
norm's input does not change the stream itself."""
RESIDUAL_OUT = Site("residual_out", lambda block: Point(block.layer))
ATTENTION_OUT = Site("attention_out", lambda block: block.parts.attention_out)
MLP_OUT = Site("mlp_out", lambda block: block.parts.mlp_out)
HEADS = Site("heads", lambda block: block.parts.heads_point, per_head=True)
"""The output of every query head before the output projection, for any number of key heads."""

SITES = {
    site.name: site
    for site in (RESIDUAL_IN, RESIDUAL_MID, RESIDUAL_OUT, ATTENTION_OUT, MLP_OUT, HEADS)
}


def blocks(lm: LanguageModel, layers: Sequence[int]) -> list[Block]:
    """The given layers, to search for sites.

    Raises:
        ModelError: the model has no residual stream.
    """
    lm.checked.require_stream(lm.name)
    dissected = cache(lambda: dissect(lm, layers))
    return [Block(lm.layers[i], i, dissected) for i in layers]


def points(lm: LanguageModel, layers: Sequence[int], sites: Sequence[Site]) -> list[list[Point]]:
    """The place of each of ``sites`` in each of ``layers``.

    Raises:
        InputError: a layer has no such place. ModelError: the model has no residual stream.
    """
    chosen = blocks(lm, layers)
    return [[_found(site, block) for block in chosen] for site in sites]


def points_to_edit(
    lm: LanguageModel, layers: Sequence[int], sites: Sequence[Site]
) -> list[list[Point]]:
    """:func:`points`, for edits and patches.

    Raises:
        InputError: a site can only be read, or as for :func:`points`.
    """
    for site in sites:
        if site.read_only:
            raise InputError(
                f"{site.name} can only be read: an edit there would reach what the MLP reads, not "
                f"the residual stream; edit {ATTENTION_OUT.name} or {RESIDUAL_OUT.name}"
            )
    return points(lm, layers, sites)


def _found(site: Site, block: Block) -> Point:
    point = site.find(block)
    if point is None:
        there = [name for name, other in SITES.items() if other.find(block) is not None]
        raise InputError(
            f"layer {block.number} ({type(block.layer).__name__}) has no {site.name} that a trace "
            f"of its modules can find; it has {', '.join(there)}"
        )
    return point


def head_count(lm: LanguageModel, layer: int) -> int:
    """Number of query heads in a layer."""
    found = dissect(lm, [layer])[layer].heads
    if found is not None:
        return found.count
    return int(lm.model.config.get_text_config(decoder=True).num_attention_heads)
