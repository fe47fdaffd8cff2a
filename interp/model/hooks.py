"""Read and write hooks as context managers: plain torch, exact, gone when the block ends.

They work on the very model that is being trained, survive saving, and never edit a tensor in
place (that would corrupt what other hooks saved, and autograd). Each sees what the hooks that were
there before it have made of the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Hidden = Float[Tensor, "batch token d_model"]


@dataclass(frozen=True)
class Point:
    """A place in a forward: what comes out of a module, or what goes into it.

    Of several outputs the first is meant, as of several inputs.
    """

    module: nn.Module
    before: bool = False


class EarlyExit(Exception):
    """Raised after the last wanted module, so that nothing after it is computed."""


def hidden_of(output: Any) -> Hidden:
    """The hidden states in a decoder layer's output: a bare tensor, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) else output


def hidden_into(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Hidden:
    """The hidden states that a module is called with; attention gets them by name."""
    return arguments[0] if arguments else keywords["hidden_states"]


@contextmanager
def reading(
    points: Sequence[Point | nn.Module], read: Callable[[int, Hidden], None]
) -> Iterator[None]:
    """Call ``read(i, hidden)`` with the hidden states at ``points[i]`` on every forward.

    Args:
        points: places; a module stands for its output.
        read: gets the index in ``points`` and the hidden states; must copy what it keeps, since
            a slice holds on to the whole batch's storage.
    """

    def reader(index: int) -> Callable[[Hidden], None]:
        def act(hidden: Hidden) -> None:
            read(index, hidden)  # whatever it returns is no edit

        return act

    with ExitStack() as stack:
        for i, point in enumerate(points):
            stack.callback(_register(_point(point), reader(i)).remove)
        yield


@contextmanager
def stopping_after(module: nn.Module) -> Iterator[None]:
    """End the block quietly once ``module`` has run; enter it after what reads its output."""

    def stop(*_: Any) -> None:
        raise EarlyExit

    handle = module.register_forward_hook(stop)
    try:
        yield
    except EarlyExit:
        pass
    finally:
        handle.remove()


@contextmanager
def writing(point: Point | nn.Module, edit: Callable[[Hidden], Hidden]) -> Iterator[None]:
    """Replace the hidden states at ``point`` by ``edit`` of them on every forward, out of place.

    A module stands for its output. While the block runs, :func:`active_edits` says so.
    """
    handle = _register(_point(point), _Edit(edit))
    try:
        yield
    finally:
        handle.remove()


def active_edits(model: nn.Module) -> bool:
    """Whether a :func:`writing` block is open anywhere in ``model``.

    Asked of the hooks themselves, so that no list of them can be out of date.
    """
    return any(
        isinstance(getattr(hook, "act", None), _Edit)
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


@dataclass(frozen=True)
class _Edit:
    edit: Callable[[Hidden], Hidden]

    def __call__(self, hidden: Hidden) -> Hidden:
        return self.edit(hidden)


Act = Callable[[Hidden], Hidden | None]


@dataclass(frozen=True)
class _After:
    act: Act

    def __call__(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        new = self.act(hidden_of(output))
        if new is None:
            return None
        return (new, *output[1:]) if isinstance(output, tuple) else new


@dataclass(frozen=True)
class _Before:
    act: Act

    def __call__(self, _module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> Any:
        new = self.act(hidden_into(arguments, keywords))
        if new is None:
            return None
        if arguments:
            return (new, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": new}


def _point(point: Point | nn.Module) -> Point:
    return point if isinstance(point, Point) else Point(point)


def _register(point: Point, act: Act) -> RemovableHandle:
    if point.before:
        return point.module.register_forward_pre_hook(_Before(act), with_kwargs=True)
    return point.module.register_forward_hook(_After(act))
