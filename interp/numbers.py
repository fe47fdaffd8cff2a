"""Numbers as callers give them: those of NumPy and torch are taken as Python's own."""

from __future__ import annotations

import operator
from typing import Any


def plain_number(value: Any) -> Any:
    """A number or truth value of NumPy or torch as Python's own; anything else unchanged."""
    is_scalar = hasattr(value, "item") and not getattr(value, "ndim", 0)
    return value.item() if is_scalar else value


def whole_number(value: Any) -> int:
    """An integer of Python, NumPy or torch as Python's own.

    Raises:
        TypeError: the value is a truth value, has a fraction, or is not a number.
    """
    value = plain_number(value)
    if isinstance(value, bool):
        raise TypeError(f"{value} is a truth value; expected a whole number")
    return operator.index(value)


def evenly_spread(count: int, most: int) -> list[int]:
    """At most ``most`` numbers below ``count``, evenly spread, with the first and the last."""
    import numpy as np

    return sorted({round(place) for place in np.linspace(0, count - 1, min(most, count))})
