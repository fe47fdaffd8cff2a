"""What the fuzz tests share: values that files may hold, and what may come of them.

``make fuzz`` runs ``tests/test_fuzz_*.py`` with other examples again and again; a normal run takes
a few fixed ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from interp.errors import InputError

R = TypeVar("R")
LONGEST_LINE = 1500

# Half a surrogate pair, line ends of other systems, and what looks like markup or a special token.
odd_text = st.text(max_size=12) | st.sampled_from(
    [
        "\ud83d",
        "\u2028",
        "\r",
        "\x00",
        "\ufeff",
        " ",
        "nan",
        "NaN",
        "None",
        "null",
        "<|im_end|>",
        "é",
    ]
)
nothing = st.sampled_from([None, float("nan"), ""])
scalars = (
    nothing | st.booleans() | st.integers() | st.floats() | odd_text
    | st.sampled_from([0, 1, 2**70, -0.0, 1e308, "0", "1", "x" * 140_000])
)  # fmt: skip
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=5,
)
# ``make fuzz`` draws more examples, and others each time.
MORE = int(os.environ.get("SPILLOVER_FUZZ", "1"))


def fuzzed(examples: int) -> settings:
    """Settings of a property of files or models, with this many examples in a normal run."""
    return settings(
        max_examples=examples * MORE, derandomize=MORE == 1, suppress_health_check=list(HealthCheck)
    )


def answer_or_line(call: Callable[[], R]) -> R | None:
    """What ``call`` gives, or None where it refuses its input in one line."""
    try:
        return call()
    except InputError as error:
        line = str(error)
        assert line.strip() and "\n" not in line and len(line) < LONGEST_LINE, line[:3000]
        return None


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
