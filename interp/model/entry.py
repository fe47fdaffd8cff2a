"""Enter a model's forward at a layer: the layers up to it do not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from interp.model.hooks import Hidden, hidden_into


class CannotEnter(Exception):
    """The layers hand on more than states, so none of them can be left out."""


def container_of(output: Any) -> Callable[[Hidden], Any]:
    """What puts other states into the place of those in a layer's output.

    Raises:
        CannotEnter: the output holds more than the states.
    """
    if isinstance(output, Tensor):
        return lambda states: states
    if type(output) in (tuple, list) and all(part is None for part in output[1:]):
        kind, rest = type(output), output[1:]
        return lambda states: kind((states, *rest))
    raise CannotEnter(type(output).__name__)


@contextmanager
def entering(
    layers: nn.ModuleList, layer: int, states: Hidden, containers: Sequence[Callable[[Hidden], Any]]
) -> Iterator[None]:
    """Forwards inside the block take ``states`` for the output of ``layer``.

    Args:
        layers: the decoder layers.
        layer: 0-based; it and the layers before it do not run. Their hooks do.
        states: the output of ``layer``, with as many columns as the forward's inputs.
        containers: what :func:`container_of` found for each of these layers.
    """
    with ExitStack() as stack:
        for i in range(layer + 1):
            skipped = partial(_skipped, containers[i], states if i == layer else None)
            stack.enter_context(_forward_replaced(layers[i], skipped))
        yield


def _skipped(
    contain: Callable[[Hidden], Any], states: Hidden | None, *arguments: Any, **keywords: Any
) -> Any:
    return contain(hidden_into(arguments, keywords) if states is None else states)


@contextmanager
def _forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    # Another library may have replaced the forward.
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
