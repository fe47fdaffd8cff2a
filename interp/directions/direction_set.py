"""Directions of several labels at several layers, stored with their provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from interp.directions.fitting import Estimator, refitted_reliability
from interp.errors import InputError
from interp.statistics import Contrast, error_degrees
from interp.store import atomic_write

if TYPE_CHECKING:
    import pandas as pd

OPTIONAL = ("reliability_low", "reliability_high", "n")


@dataclass(frozen=True)
class DirectionSet:
    """Directions by label and layer.

    Attributes:
        labels: names.
        layers: 0-based decoder layers; the directions are for their outputs.
        vectors: the directions, in the scale of their estimator.
        reliability: split-half reliability of each.
        estimator: class name of the estimator.
        provenance: any JSON value: model, revision, prompts, seed.
        reliability_low, reliability_high: interval of the reliability; NaN if not computed.
        n: number of prompts of each label's directions; 0 if unknown.

    Raises:
        InputError: shapes do not fit the labels and layers, or vectors are not finite.

    Example:
        >>> dirs.to_set().save("directions.safetensors")
        >>> kept = sp.DirectionSet.load("directions.safetensors")
        >>> kept.vectors.shape, kept.estimator
        ((7, 5, 128), 'MeanDifference')
    """

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    vectors: Float[np.ndarray, "label layer d_model"]
    reliability: Float[np.ndarray, "label layer"]
    estimator: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    reliability_low: Float[np.ndarray, "label layer"] = field(default=None)  # type: ignore[arg-type]
    reliability_high: Float[np.ndarray, "label layer"] = field(default=None)  # type: ignore[arg-type]
    n: Int[np.ndarray, " label"] = field(default=None)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        for name in OPTIONAL:
            if getattr(self, name) is None:
                count = np.zeros(len(self.labels), dtype=np.int64)
                missing = count if name == "n" else np.full(self.reliability.shape, np.nan)
                object.__setattr__(self, name, missing)
        expected = (len(self.labels), len(self.layers))
        if self.vectors.ndim != 3 or self.vectors.shape[:2] != expected:
            raise InputError(
                f"vectors of shape {self.vectors.shape} for {expected[0]} labels and {expected[1]} "
                "layers; expected (label, layer, d_model)"
            )
        for name in ("reliability", *OPTIONAL):
            shape, wanted = getattr(self, name).shape, expected[:1] if name == "n" else expected
            if shape != wanted:
                raise InputError(
                    f"{name} of shape {shape} for {expected[0]} labels and {expected[1]} layers; "
                    f"expected {wanted}"
                )
        if not np.isfinite(self.vectors).all():
            raise InputError("directions with NaN or infinite entries; fit them again")

    @classmethod
    def fitted(
        cls,
        estimator: Estimator,
        contrasts: Mapping[str, Contrast],
        *,
        layers: Sequence[int] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> DirectionSet:
        """One direction per label and layer, all by the same estimator.

        Args:
            estimator: its ``fit(states, labels, groups)`` sets ``direction_``. If it does not set
                ``reliability_``, copies of it are fitted to halves of the prompts.
            contrasts: by label, of the same layers.
            layers: names of the layers; 0, 1, … by default.
            provenance: see the class.

        Raises:
            InputError: no contrasts, or an estimator that finds no single direction.
        """
        found = []
        for contrast in contrasts.values():
            fit = estimator.fit(contrast.states, contrast.classes == 0, contrast.units.tolist())
            if not hasattr(fit, "direction_"):
                name = type(estimator).__name__
                raise InputError(
                    f"{name} finds no direction_; fit it to states alone, as in "
                    f"{name}().fit(states, labels), or give an estimator of directions, such as "
                    "sp.MeanDifference()"
                )
            reliability = getattr(fit, "reliability_", None)
            if reliability is None:
                reliability = refitted_reliability(estimator, contrast)
            unknown = np.full(len(reliability), np.nan)
            bounds = (getattr(fit, f"reliability_{end}_", unknown) for end in ("low", "high"))
            found.append((fit.direction_, reliability, *bounds, getattr(fit, "n_", contrast.n)))
        if not found:
            raise InputError(
                "there are no contrasts to fit directions of; give at least one label that has "
                "prompts of both classes"
            )
        vectors, reliability, low, high, n = (np.array(part) for part in zip(*found, strict=True))
        return cls(
            labels=tuple(contrasts),
            layers=tuple(range(vectors.shape[1])) if layers is None else tuple(layers),
            vectors=vectors,
            reliability=reliability,
            estimator=type(estimator).__name__,
            provenance=dict(provenance or {}),
            reliability_low=low,
            reliability_high=high,
            n=n,
        )

    def select(self, label: str, layer: int) -> Float[np.ndarray, " d_model"]:
        """One direction.

        Raises:
            InputError: a label or layer that is not in the set.
        """
        return self.vectors[self._label(label), self._layer(layer)]

    def subset(
        self, labels: Sequence[str] | None = None, layers: Sequence[int] | None = None
    ) -> DirectionSet:
        """The set with only these labels and layers, in this order.

        Raises:
            InputError: a label or layer that is not in the set.
        """
        rows = [self._label(label) for label in (self.labels if labels is None else labels)]
        columns = [self._layer(layer) for layer in (self.layers if layers is None else layers)]
        cells = np.ix_(rows, columns)
        arrays = ("vectors", "reliability", "reliability_low", "reliability_high")
        chosen: dict[str, Any] = {name: getattr(self, name)[cells] for name in arrays}
        chosen["labels"] = tuple(self.labels[row] for row in rows)
        chosen["layers"] = tuple(self.layers[column] for column in columns)
        return replace(self, n=self.n[rows], **chosen)

    def _label(self, label: str) -> int:
        if label not in self.labels:
            raise InputError(f"no direction for {label!r}; there are {', '.join(self.labels)}")
        return self.labels.index(label)

    def _layer(self, layer: int) -> int:
        if layer not in self.layers:
            raise InputError(f"no direction at layer {layer}; there are {list(self.layers)}")
        return self.layers.index(layer)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per label and layer: norm, reliability with its interval, error in degrees."""
        import pandas as pd

        label, layer = (index.ravel() for index in np.indices(self.reliability.shape))
        return pd.DataFrame(
            {
                "label": np.array(self.labels, dtype=object)[label],
                "layer": np.array(self.layers)[layer],
                "estimator": self.estimator,
                "norm": np.linalg.norm(self.vectors, axis=-1).ravel(),
                "reliability": self.reliability.ravel(),
                "reliability_low": self.reliability_low.ravel(),
                "reliability_high": self.reliability_high.ravel(),
                "error_degrees": error_degrees(self.reliability).ravel(),
                "n": self.n[label],
            }
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically, with the other fields in its metadata."""
        from safetensors.numpy import save_file

        about = {
            "labels": self.labels,
            "layers": self.layers,
            "estimator": self.estimator,
            "provenance": dict(self.provenance),
        }
        arrays = {name: getattr(self, name) for name in ("vectors", "reliability", *OPTIONAL)}
        with atomic_write(path) as temporary:
            save_file(
                {name: np.ascontiguousarray(array) for name, array in arrays.items()},
                temporary,
                metadata={"directions": json.dumps(about, ensure_ascii=False)},
            )

    @classmethod
    def load(cls, path: str | Path) -> DirectionSet:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: the file does not exist, is damaged, or holds no directions.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["directions"])
                vectors, reliability = file.get_tensor("vectors"), file.get_tensor("reliability")
                # Files of earlier versions hold no intervals.
                there = [name for name in OPTIONAL if name in file.keys()]  # noqa: SIM118
                optional = {name: file.get_tensor(name) for name in there}
            return cls(
                about["labels"],
                about["layers"],
                vectors,
                reliability,
                about["estimator"],
                about["provenance"],
                **optional,
            )
        except FileNotFoundError:
            raise InputError(f"{path} is not there; expected a file of directions") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path} is damaged or holds no directions ({error}); fit and save them again"
            ) from error
