"""Directions of several labels at several layers, kept with where they came from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.errors import InputError
from interp.store import atomic_write

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class DirectionSet:
    """Directions by label and layer.

    Attributes:
        labels: names.
        layers: 0-based decoder layers, their outputs.
        vectors: the directions, scaled as their estimator scales them.
        reliability: split-half reliability of each.
        estimator: its class name.
        provenance: anything JSON can hold: model, revision, prompts, seed.

    Raises:
        InputError: shapes that do not fit the labels and layers, or vectors that are not finite.
    """

    labels: tuple[str, ...]
    layers: tuple[int, ...]
    vectors: Float[np.ndarray, "label layer d_model"]
    reliability: Float[np.ndarray, "label layer"]
    estimator: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "layers", tuple(int(layer) for layer in self.layers))
        expected = (len(self.labels), len(self.layers))
        if self.vectors.ndim != 3 or self.vectors.shape[:2] != expected:
            raise InputError(
                f"vectors of shape {self.vectors.shape} for {expected[0]} labels and {expected[1]} "
                "layers; expected (label, layer, d_model)"
            )
        if self.reliability.shape != expected:
            raise InputError(
                f"reliability of shape {self.reliability.shape}; expected {expected}, one number "
                "per label and layer"
            )
        if not np.isfinite(self.vectors).all():
            raise InputError("directions with NaN or infinite entries; fit them again")

    def select(self, label: str, layer: int) -> Float[np.ndarray, " d_model"]:
        """One direction.

        Raises:
            InputError: a label or layer that is not in the set.
        """
        if label not in self.labels:
            raise InputError(f"no direction for {label!r}; there are {', '.join(self.labels)}")
        if layer not in self.layers:
            raise InputError(f"no direction at layer {layer}; there are {list(self.layers)}")
        return self.vectors[self.labels.index(label), self.layers.index(layer)]

    def to_dataframe(self) -> pd.DataFrame:
        """One row per label and layer: norm and reliability."""
        import pandas as pd

        label, layer = (index.ravel() for index in np.indices(self.reliability.shape))
        return pd.DataFrame(
            {
                "label": np.array(self.labels, dtype=object)[label],
                "layer": np.array(self.layers)[layer],
                "estimator": self.estimator,
                "norm": np.linalg.norm(self.vectors, axis=-1).ravel(),
                "reliability": self.reliability.ravel(),
            }
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; the rest goes into its metadata."""
        from safetensors.numpy import save_file

        about = {
            "labels": self.labels,
            "layers": self.layers,
            "estimator": self.estimator,
            "provenance": dict(self.provenance),
        }
        arrays = {"vectors": self.vectors, "reliability": self.reliability}
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
            InputError: no file, a damaged one, or a safetensors file of something else.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = json.loads((file.metadata() or {})["directions"])
                vectors, reliability = file.get_tensor("vectors"), file.get_tensor("reliability")
            return cls(
                about["labels"],
                about["layers"],
                vectors,
                reliability,
                about["estimator"],
                about["provenance"],
            )
        except FileNotFoundError:
            raise InputError(f"{path} is not there; expected a file of directions") from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise InputError(
                f"{path} is damaged or holds no directions ({error}); fit and save them again"
            ) from error
