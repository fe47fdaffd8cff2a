"""JSON inside a page: no text of a prompt or a model can end the element that holds it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

# Inside a script element an HTML parser looks for tags and comments; JSON needs none of these
# characters outside of strings, and reads the escapes inside of them as the same characters.
ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def as_json_text(value: Any) -> str:
    """JSON that can stand in an HTML script element.

    Raises:
        ValueError: a number that is not finite; JSON has none.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(ESCAPES)


def rounded(values: Iterable[float], digits: int) -> list[float | None]:
    """The numbers with as many decimals as the page prints; None where there is no number."""
    numbers = pd.Series(list(values), dtype=float)
    return [round(value, digits) + 0.0 if math.isfinite(value) else None for value in numbers]


def coded(values: Iterable[Any]) -> dict[str, list]:
    """A column of few different texts: the texts, and for every row the index of its text."""
    codes, names = pd.factorize(pd.Series(list(values), dtype=object))
    return {"names": [str(name) for name in names], "codes": [int(code) for code in codes]}
