"""Predictors of leakage: functions of the evidence, registered by name.

A predictor returns a matrix for each of its variants (a layer, a preconditioner): a row for each
source, a column for each target, larger where more should leak, in any unit. Which variant stands
for it is chosen on development worlds and then frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analyses.predict.evidence import Evidence
from interp.errors import InputError

Predictions = Mapping[str, Float[np.ndarray, "source target"]]


@dataclass(frozen=True)
class Predictor:
    """One way to predict.

    Attributes:
        name: as tables show it.
        kind: ``kernel``, ``geometry`` or ``trivial`` (known without the model's states).
        predict: the matrix of each variant.
    """

    name: str
    kind: str
    predict: Callable[[Evidence], Predictions]


PREDICTORS: dict[str, Predictor] = {}


def predictor(name: str, kind: str) -> Callable[[Callable[[Evidence], Predictions]], Predictor]:
    """Register a function under ``name``; it is then in every prediction and tournament."""

    def register(predict: Callable[[Evidence], Predictions]) -> Predictor:
        if name in PREDICTORS and PREDICTORS[name].predict.__module__ != predict.__module__:
            raise InputError(f'there is a predictor named "{name}" already; choose another name')
        PREDICTORS[name] = Predictor(name, kind, predict)
        return PREDICTORS[name]

    return register
