"""Points that the paper omits or contradicts, and our choices."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analyses.reproduce.protocol import BETA, RETAIN_WEIGHT, UTILITY_DROP, UTILITY_POINTS


@dataclass(frozen=True)
class Silence:
    """One point.

    Attributes:
        about: the subject, in a few words.
        paper: the paper's statement, or that it omits the point.
        here: our choice.
        why: the reason.
        inconsistent: the paper contradicts itself, rather than being silent.
    """

    about: str
    paper: str
    here: str
    why: str
    inconsistent: bool = False


SETTINGS = {
    "beta": BETA,
    "retain_weight": RETAIN_WEIGHT,
    "utility_drop": UTILITY_DROP,
    "utility_points": UTILITY_POINTS,
}


def read_silences() -> tuple[Silence, ...]:
    """Every point in ``silences.toml``, with our own settings filled in."""
    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["silence"]
    return tuple(Silence(**_filled(row)) for row in rows)


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.format(**SETTINGS) if isinstance(value, str) else value
        for name, value in row.items()
    }


SILENCES = read_silences()
