"""The share of the decoder layers' weights that a prepared model trains, by kind of module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from interp.model import LanguageModel
from unlearning.training.adapters import FROZEN, adapted_weights, kind

OTHERS = "norms, biases and other vectors"


@dataclass(frozen=True)
class Coverage:
    """How many of the layers' weights train.

    Attributes:
        total: number of weights in the decoder layers; a shared tensor counts once.
        trained: number of those that train or have an adapter, by kind of module.
        frozen: number of those that do not, by kind of module.
        reasons: why a kind is frozen, where more than the choice of parameters is the reason.
        outside: number of trained weights outside the layers.
    """

    total: int
    trained: Mapping[str, int]
    frozen: Mapping[str, int]
    reasons: Mapping[str, str]
    outside: int

    @property
    def share(self) -> float:
        """Share of the layers' weights that train, 0 to 1."""
        return sum(self.trained.values()) / self.total

    @property
    def line(self) -> str:
        """One line for the screen."""
        found = f"{self.share:.1%} of the layers' weights train ({self._listed(self.trained)})"
        if any(self.frozen.values()):
            found += f"; frozen: {self._listed(self.frozen, self.reasons)}"
        return found + ("; weights outside the layers train too" if self.outside else "")

    def _listed(self, counts: Mapping[str, int], reasons: Mapping[str, str] | None = None) -> str:
        shown = []
        for name, count in sorted(counts.items(), key=lambda one: -one[1]):
            why = f" ({reasons[name]})" if reasons and name in reasons else ""
            shown.append(f"{name} {count / self.total:.1%}{why}")
        return ", ".join(shown)

    def to_json(self) -> dict[str, Any]:
        """For the arm's record."""
        return {"share": self.share, **asdict(self)}


def coverage_of(lm: LanguageModel) -> Coverage:
    """What a prepared model trains.

    Under LoRA a weight counts as trained if it has an adapter.
    """
    adapted = {id(weight) for weight in adapted_weights(lm.model)}
    reasons = {kind(weight.place): said for weight, said in lm.found_out.get(FROZEN, {}).items()}
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    inside = set()
    for path, parameter in lm.layers.named_parameters():
        if _is_adapter(path):
            continue
        inside.add(id(parameter))
        name = kind(path.replace(".base_layer", "").removesuffix(".weight"))
        trains = parameter.requires_grad or id(parameter) in adapted
        counts = trained if trains else frozen
        counts[name if parameter.ndim > 1 else OTHERS] += parameter.numel()
    outside = sum(
        parameter.numel()
        for path, parameter in lm.model.named_parameters()
        if parameter.requires_grad and id(parameter) not in inside and not _is_adapter(path)
    )
    total = sum(trained.values()) + sum(frozen.values())
    return Coverage(total, dict(trained), dict(frozen), reasons, outside)


def _is_adapter(path: str) -> bool:
    return ".lora_" in path or path.startswith("lora_")
