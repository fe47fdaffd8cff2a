"""The result of the direction gate."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.interventions.affine import TokenMeans, set_to_means
from interp.model import LanguageModel
from interp.selection.gate_statistics import reasons_against
from interp.statistics import Estimate
from interp.store import SCHEMAS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class GateCandidate:
    """A direction or subspace, with its mean effects on validation prompts.

    Attributes:
        kind: ``pooled``, the group whose own mean difference it is, or a subspace of rank k.
        layer: 0-based; the direction is of this layer's input, and edits begin there.
        position: token of the mean difference, counted from the prompt's end.
        rank: dimensions that the edit sets.
        direction: the raw mean difference, in the states' unit.
        bypass, induce, kl: see :mod:`interp.selection.gate`.
    """

    kind: str
    layer: int
    position: int
    rank: int
    direction: Float[np.ndarray, " d_model"] = field(repr=False)
    bypass: float
    induce: float
    kl: float


@dataclass(frozen=True)
class Effect:
    """An effect of null directions: draws, p-value, and whether the direction is beyond them."""

    draws: Float[np.ndarray, " draw"]
    p: float
    beyond: bool


@dataclass(frozen=True)
class ZeroForm:
    """Arditi's ablation of the same direction: its component is zero in the whole stream."""

    bypass: Estimate
    kl: Estimate


@dataclass(frozen=True, repr=False)
class DirectionGate:
    """Whether one direction mediates the behaviour, on test prompts.

    Attributes:
        bypass, induce: mean readouts under the edits, in nats for refusal log-odds.
        kl: of the next token on negatives, in nats.
        base: mean readouts of the unchanged model on positives and on negatives.
        chosen: the direction, chosen on validation prompts.
        nulls: draws by (``bypass`` or ``induce``, ``random`` or ``covariance-matched``).
        zero: the zero form of the same direction.
        candidates: everything that was tried on validation prompts, subspaces included.
        massive: the tokens of massive activation, which the edits spare.
        means: the means that the edit sets, in memory only.
    """

    bypass: Estimate
    induce: Estimate
    kl: Estimate
    base: tuple[Estimate, Estimate]
    chosen: GateCandidate
    nulls: Mapping[tuple[str, str], Effect]
    zero: ZeroForm
    candidates: tuple[GateCandidate, ...]
    massive: str
    means: TokenMeans | None = None

    @property
    def direction(self) -> Float[np.ndarray, " d_model"]:
        """The raw mean difference, in the states' unit."""
        return self.chosen.direction

    @property
    def layer(self) -> int:
        """0-based layer at whose input the direction lies."""
        return self.chosen.layer

    @property
    def position(self) -> int:
        """Token of the direction, counted from the prompt's end."""
        return self.chosen.position

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the gate is not passed; empty if it is."""
        clear = {f"{null} ({effect})": found.beyond for (effect, null), found in self.nulls.items()}
        return reasons_against(self.bypass.value, self.induce.value, self.kl.value, clear)

    @property
    def passed(self) -> bool:
        """Whether the one direction passes every condition."""
        return not self.reasons

    @property
    def line(self) -> str:
        """The gate in one line."""
        verdict = "passed" if self.passed else f"not passed ({'; '.join(self.reasons)})"
        return (
            f"{verdict}: {self.chosen.kind} direction, layer {self.layer}, token {self.position}; "
            f"bypass {self.bypass.value:+.2f}, induce {self.induce.value:+.2f}, "
            f"KL {self.kl.value:.3f}; zero form {self.zero.bypass.value:+.2f}, "
            f"KL {self.zero.kl.value:.3f}"
        )

    def __repr__(self) -> str:
        positive, negative = self.base
        lines = [
            f"DirectionGate, {self.line}",
            f"without an edit: {positive.value:+.2f} on {positive.n} positives, "
            f"{negative.value:+.2f} on {negative.n} negatives",
        ]
        for (effect, null), found in self.nulls.items():
            low, high = found.draws.min(), found.draws.max()
            lines.append(
                f"{effect} of {len(found.draws)} {null} directions: {low:+.2f} to {high:+.2f} "
                f"(p = {found.p:.2f})"
            )
        lines.append(f"massive activations: {self.massive}")
        return "\n".join(lines)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per candidate on validation prompts: kind, layer, position, rank, effects."""
        import pandas as pd

        names = ("kind", "layer", "position", "rank", "bypass", "induce", "kl")
        rows = [[getattr(one, name) for name in names] for one in self.candidates]
        table = pd.DataFrame(rows, columns=list(names))
        return table.assign(chosen=[one is self.chosen for one in self.candidates])

    def summary(self) -> dict[str, Any]:
        """What a file keeps: numbers and words, without vectors."""
        return {
            "passed": self.passed,
            "schema": SCHEMAS["gate"],
            "line": self.line,
            "kind": self.chosen.kind,
            "layer": self.layer,
            "position": self.position,
            **{
                name: {"value": e.value, "low": e.low, "high": e.high, "n": e.n}
                for name, e in (
                    ("bypass", self.bypass),
                    ("induce", self.induce),
                    ("kl", self.kl),
                    ("zero_bypass", self.zero.bypass),
                    ("zero_kl", self.zero.kl),
                    ("base_positive", self.base[0]),
                    ("base_negative", self.base[1]),
                )
            },
            "nulls": [
                {"effect": effect, "null": null, "p": found.p, "draws": found.draws.tolist()}
                for (effect, null), found in self.nulls.items()
            ],
            "massive": self.massive,
        }

    def editing(self, lm: LanguageModel) -> AbstractContextManager[None]:
        """The gate's edit of a model: the component along the direction set to the means.

        Example:
            >>> with gate.editing(lm):
            ...     changed = sp.generate(lm, ["Kindly explain how to bake bread."])
        """
        assert self.means is not None
        return set_to_means(lm, self.direction, self.means, first_layer=self.layer)

    def plot(self) -> Figure:
        """Draw both effects with their nulls, the unchanged model and the zero form."""
        from interp.figures import gate_figure

        return gate_figure(self)
