"""What can be read in a decoder layer: the residual stream, what is added to it, and the heads."""

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
    """A decoder layer in which a site is to be found.

    Attributes:
        layer: the module.
        number: its 0-based number.
        dissected: all layers' parts; costs a small forward when it is first called.
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

    A site of your own: ``Site("gate", lambda block: Point(block.layer.mlp.gate_proj))``.

    Attributes:
        name: what it is called in tables and files.
        find: its place in a block, ``None`` where the block has none.
        per_head: the states are the attention heads' side by side.
    """

    name: str
    find: Callable[[Block], Point | None]
    per_head: bool = False


RESIDUAL_IN = Site("residual_in", lambda block: Point(block.layer, before=True))
RESIDUAL_MID = Site("residual_mid", lambda block: block.parts.residual_mid)
"""After attention, before the MLP. To be read only: where a norm reads the stream, an edit of
what it reads does not change the stream itself."""
RESIDUAL_OUT = Site("residual_out", lambda block: Point(block.layer))
ATTENTION_OUT = Site("attention_out", lambda block: block.parts.attention_out)
MLP_OUT = Site("mlp_out", lambda block: block.parts.mlp_out)
HEADS = Site("heads", lambda block: block.parts.heads, per_head=True)
"""Every query head's result before the output projection, whatever the number of key heads."""

SITES = {
    site.name: site
    for site in (RESIDUAL_IN, RESIDUAL_MID, RESIDUAL_OUT, ATTENTION_OUT, MLP_OUT, HEADS)
}


def blocks(lm: LanguageModel, layers: Sequence[int]) -> list[Block]:
    """The given layers, to look for sites in."""
    dissected = cache(lambda: dissect(lm, layers))
    return [Block(lm.layers[i], i, dissected) for i in layers]


def points(lm: LanguageModel, layers: Sequence[int], sites: Sequence[Site]) -> list[list[Point]]:
    """The place of each of ``sites`` in each of ``layers``.

    Raises:
        InputError: a layer has no such place.
    """
    chosen = blocks(lm, layers)
    return [[_found(site, block) for block in chosen] for site in sites]


def _found(site: Site, block: Block) -> Point:
    point = site.find(block)
    if point is None:
        there = [name for name, other in SITES.items() if other.find(block) is not None]
        raise InputError(
            f"layer {block.number} ({type(block.layer).__name__}) has no {site.name} that can be "
            f"told from what its modules exchange; it has {', '.join(there)}"
        )
    return point


def head_count(lm: LanguageModel) -> int:
    """Query heads in a layer."""
    return int(lm.model.config.get_text_config(decoder=True).num_attention_heads)
