"""Predictors of leakage: functions of the evidence, registered by name.

A predictor returns a matrix for each of its variants (a layer, a preconditioner): a row for each
source, a column for each target, larger where it expects more leakage, in any unit. One
variant per predictor is chosen on development worlds and then frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from analyses.predict.evidence import Evidence
from interp.registry import About, Registry, require_parameters

Predictions = Mapping[str, Float[np.ndarray, "source target"]]
Predict = Callable[[Evidence], Predictions]


@dataclass(frozen=True)
class Predictor:
    """A method of prediction.

    Attributes:
        about: name in tables, title, paper, badge, colour.
        kind: ``kernel``, ``geometry`` or ``trivial`` (known without the model's states).
        predict: the matrix of each variant.
    """

    about: About
    kind: str
    predict: Predict

    @property
    def name(self) -> str:
        """The name in tables."""
        return self.about.name


PREDICTORS: Registry[Predictor] = Registry("predictor", "analyses.predict", "predictor")


def over_domains(
    domains: Sequence[str], labels: Sequence[str], values: Float[np.ndarray, "label label"]
) -> Float[np.ndarray, "source target"]:
    """A matrix over all domains; NaN in those that ``values`` has no row and column for."""
    found = np.full((len(domains), len(domains)), np.nan)
    places = [domains.index(label) for label in labels]
    found[np.ix_(places, places)] = values
    return found


def predictor(name: str, kind: str, **about: str) -> Callable[[Predict], Predict]:
    """Register a function under ``name``; every prediction and tournament then includes it.

    Args:
        name: the name in tables.
        kind: ``kernel``, ``geometry`` or ``trivial``.
        about: ``title, paper, badge, differs, colour`` of :class:`interp.registry.About`.

    Raises:
        InputError: another predictor has that name, or the function takes other parameters.
    """

    def register(predict: Predict) -> Predict:
        described = About(name, **about)
        require_parameters(predict, ("evidence",), f"the predictor {name}")
        PREDICTORS.add(described, Predictor(described, kind, predict), predict)
        return predict

    return register
