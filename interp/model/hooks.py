"""Read and edit a model's states by context managers, which restore the model afterwards.

The hooks are plain torch hooks and exact. They work on a model during its training and survive
saving. They never edit a tensor in place, because that would corrupt autograd and the tensors that
other hooks saved. Each hook receives the tensor after all earlier hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Module = TypeVar("Module", bound=nn.Module)

Hidden = Float[Tensor, "batch token d_model"]


@dataclass(frozen=True)
class Point:
    """A place in a forward: the output of a module, or its input.

    If a module has several outputs or inputs, the first is used.
    """

    module: nn.Module
    before: bool = False


class EarlyExit(Exception):
    """Raised after the last wanted module, so that nothing after it is computed."""


def hidden_of(output: Any) -> Hidden:
    """The hidden states in a decoder layer's output: a bare tensor, or the first of several."""
    return output[0] if isinstance(output, tuple | list) else output


def with_hidden(output: Any, new: Hidden) -> Any:
    """A decoder layer's output with ``new`` in place of its hidden states."""
    return type(output)((new, *output[1:])) if isinstance(output, tuple | list) else new


def hidden_into(arguments: tuple[Any, ...], keywords: Mapping[str, Any]) -> Hidden:
    """The hidden states in a module's input; attention receives them as a named argument."""
    return arguments[0] if arguments else keywords["hidden_states"]


@contextmanager
def reading(
    points: Sequence[Point | nn.Module], read: Callable[[int, Hidden], None]
) -> Iterator[None]:
    """Call ``read(i, hidden)`` with the hidden states at ``points[i]`` on every forward.

    Args:
        points: places; a module stands for its output.
        read: gets the index in ``points`` and the hidden states. It must copy the states that it
            keeps, because a slice keeps the whole batch's storage in memory.
    """

    with ExitStack() as stack:
        for i, point in enumerate(points):
            stack.enter_context(_register(point, partial(read, i), edits=False))
        yield


@contextmanager
def stopping_after(module: nn.Module) -> Iterator[None]:
    """End the block without an error after ``module`` runs; enter it after the reading hooks."""

    def stop(*_: Any) -> None:
        raise EarlyExit

    with suppress(EarlyExit), module.register_forward_hook(stop):
        yield


@contextmanager
def writing(point: Point | nn.Module, edit: Callable[[Hidden], Hidden]) -> Iterator[None]:
    """Replace the hidden states at ``point`` by ``edit`` of them on every forward, out of place.

    A module stands for its output. While the block runs, :func:`active_edits` returns True.
    """
    with _register(point, edit, edits=True):
        yield


def active_edits(model: nn.Module) -> bool:
    """Whether a :func:`writing` block is open anywhere in ``model``.

    It checks the hooks themselves, so the answer is always up to date.
    """
    return any(
        isinstance(owner := getattr(hook, "__self__", None), _Hook) and owner.edits
        for module in model.modules()
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    )


_PROBING: ContextVar[bool] = ContextVar("probing", default=False)


@contextmanager
def probing() -> Iterator[None]:
    """Forwards inside the block test the model itself: no hook of this module acts on them."""
    token = _PROBING.set(True)
    try:
        yield
    finally:
        _PROBING.reset(token)


def is_probing() -> bool:
    """Whether a :func:`probing` block is open."""
    return _PROBING.get()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients inside the block; afterwards each module's mode is restored.

    Without dropout no random number is drawn. Modes are saved per module, because training code
    may keep some parts of a model in eval mode on purpose.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def copied(model: Module) -> Module:
    """A deep copy of a model, also of one that keeps states of its last forward.

    torch copies no tensor that has a graph, and some recurrent layers keep such a tensor.
    """
    kept = (value for module in model.modules() for value in vars(module).values())
    states = {id(v): v.detach().clone() for v in kept if isinstance(v, Tensor) and not v.is_leaf}
    return copy.deepcopy(model, states)


@dataclass(frozen=True)
class _Hook:
    """Calls ``act`` with the hidden states; if it ``edits``, its result replaces them."""

    act: Callable[[Hidden], Any]
    edits: bool

    def after(self, _module: nn.Module, _inputs: Any, output: Any) -> Any:
        if _PROBING.get():
            return None
        new = self.act(hidden_of(output))
        return with_hidden(output, new) if self.edits else None

    def before(self, _module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> Any:
        if _PROBING.get():
            return None
        new = self.act(hidden_into(arguments, keywords))
        if not self.edits:
            return None
        if arguments:
            return (new, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": new}


def _register(
    point: Point | nn.Module, act: Callable[[Hidden], Any], *, edits: bool
) -> RemovableHandle:
    point, hook = point if isinstance(point, Point) else Point(point), _Hook(act, edits)
    if point.before:
        return point.module.register_forward_pre_hook(hook.before, with_kwargs=True)
    return point.module.register_forward_hook(hook.after)
