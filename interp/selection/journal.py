"""Numbers of long work that is always done in the same order, kept as they are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float


class Journal:
    """Gives the results that an interrupted run found, then finds the others and adds them.

    Args:
        path: a line of JSON for each result; None keeps nothing. Everything that the results depend
            on belongs into its name.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.kept = {} if path is None else _read(path)
        self.count = 0

    def __call__(self, find: Callable[[], np.ndarray]) -> Float[np.ndarray, " value"]:
        """The next result."""
        number, self.count = self.count, self.count + 1
        if number in self.kept:
            return np.array(self.kept[number], dtype=np.float64)
        values = np.asarray(find(), dtype=np.float64)
        if self.path is not None:
            with suppress(OSError):  # without it, the work is done again
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write("\n" + json.dumps([number, values.tolist()]))
        return values


def _read(path: Path) -> dict[int, list[float]]:
    """The results by their numbers; a torn line is left out."""
    found: dict[int, list[float]] = {}
    with suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                number, values = json.loads(line)
                found[number] = values
    return found
