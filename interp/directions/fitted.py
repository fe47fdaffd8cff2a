"""Directions with their estimator and prompts, so that they can be fitted again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from interp.directions.direction_set import DirectionSet
from interp.directions.fitting import Estimator
from interp.directions.registry import ESTIMATORS
from interp.errors import InputError
from interp.statistics import Contrast, unit


@dataclass(frozen=True, eq=False, repr=False)
class FittedDirections:
    """Directions by label and layer, with the estimator and the prompts they come from.

    :func:`interp.similarity.cosine_map` and :func:`interp.similarity.rotation` refit the estimator
    to these prompts for intervals and nulls. ``directions["safety", 2]`` is a unit vector.

    Attributes:
        estimator: with its hyperparameters, not fitted.
        contrasts: by label.
        directions: the fitted vectors, raw length; only these are saved to disk.
        fitted_on: a description of these prompts.

    Example:
        >>> dirs["safety", 2].shape
        (128,)
        >>> dirs.labels[:2], dirs.layers
        (('cybersecurity', 'safety'), (0, 1, 2, 3, 4))
    """

    estimator: Estimator
    contrasts: Mapping[str, Contrast]
    directions: DirectionSet
    fitted_on: str = "the prompts given"

    @classmethod
    def of(
        cls,
        estimator: Estimator | str,
        contrasts: Mapping[str, Contrast],
        *,
        layers: Sequence[int] | None = None,
        provenance: Mapping[str, Any] | None = None,
        fitted_on: str = "the prompts given",
    ) -> FittedDirections:
        """Fit one direction per label and layer, all by the same estimator.

        Args:
            estimator: an estimator, or the name of a registered one; it is not changed. Its
                ``fit(states, labels, groups)`` sets ``direction_``, (layer, d_model).
            contrasts: states of positive and negative prompts by label, (prompt, layer, d_model),
                of the same layers, with different prompts for different labels
                (:func:`interp.directions.disjoint_controls`).
            layers: names of the layers; 0, 1, … by default.
            provenance: anything JSON can hold, kept with the vectors.
            fitted_on: a description of these prompts, for example ``"the training split"``.

        Raises:
            InputError: no contrasts, too few prompts, an unknown estimator, or a number of layer
                names that differs from the number of layers.
        """
        chosen = ESTIMATORS.find(estimator).quick() if isinstance(estimator, str) else estimator
        found = DirectionSet.fitted(
            deepcopy(chosen),
            contrasts,
            layers=layers,
            provenance={"fitted_on": fitted_on, **(provenance or {})},
        )
        return cls(deepcopy(chosen), dict(contrasts), found, fitted_on)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names."""
        return self.directions.labels

    @property
    def layers(self) -> tuple[int, ...]:
        """Names of the layers."""
        return self.directions.layers

    def __getitem__(self, place: tuple[str, int]) -> Float[np.ndarray, " d_model"]:
        """The unit direction of a label at the named layer; zero where none exists.

        Raises:
            InputError: the key is not a label and a layer, or was not fitted.
        """
        if not isinstance(place, tuple) or len(place) != 2:
            raise InputError(
                f'{place!r}; ask for a label and a layer, as in directions["safety", 2]'
            )
        return unit(self.directions.select(*place))

    def to_set(self) -> DirectionSet:
        """The vectors with their reliabilities, for ``.save(path)``."""
        return self.directions

    def __repr__(self) -> str:
        sizes = dict(zip(self.labels, self.directions.n.tolist(), strict=True))
        counts = ", ".join(f"{label} (n = {n})" for label, n in sizes.items())
        return (
            f"FittedDirections by {self.estimator!r}, fitted on {self.fitted_on}: {counts}; layers "
            + ", ".join(map(str, self.layers))
        )
