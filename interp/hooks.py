"""Read and write hooks as context managers: plain torch, exact, gone when the block ends.

They work on the very model that is being trained, survive saving, and never edit a tensor in
place (that would corrupt what other hooks saved, and autograd).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

Hidden = Float[Tensor, "batch token d_model"]


class EarlyExit(Exception):
    """Raised inside the last wanted layer, so that nothing after it is computed."""


def hidden_of(output: Any) -> Hidden:
    """The hidden states in a decoder layer's output: a bare tensor, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def reading(
    layers: Sequence[nn.Module], read: Callable[[int, Hidden], None], *, stop_after: bool = False
) -> Iterator[None]:
    """Call ``read(i, hidden)`` with the output of ``layers[i]`` on every forward.

    Args:
        layers: modules whose output is the residual stream, in forward order.
        read: gets the index in ``layers`` and the hidden states; must copy what it keeps, since
            a slice holds on to the whole batch's storage.
        stop_after: raise :class:`EarlyExit` once the last of ``layers`` has been read; the
            caller's forward must be inside :func:`early_exit`.
    """

    def hook(index: int) -> Callable[..., None]:
        def run(_module: nn.Module, _inputs: Any, output: Any) -> None:
            read(index, hidden_of(output))
            if stop_after and index == len(layers) - 1:
                raise EarlyExit

        return run

    with ExitStack() as stack:
        for i, layer in enumerate(layers):
            stack.callback(layer.register_forward_hook(hook(i)).remove)
        yield


@contextmanager
def early_exit() -> Iterator[None]:
    """End the block quietly when a hook inside it raises :class:`EarlyExit`."""
    with suppress(EarlyExit):
        yield


@contextmanager
def writing(layer: nn.Module, edit: Callable[[Hidden], Hidden]) -> Iterator[None]:
    """Replace the output of ``layer`` by ``edit(output)`` on every forward, out of place."""

    def run(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (edit(output[0]), *output[1:])
        return edit(output)

    handle = layer.register_forward_hook(run)
    try:
        yield
    finally:
        handle.remove()
