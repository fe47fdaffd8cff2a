"""The paper's settings: its models, its grid, its arms, and the default point of the grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from analyses.reproduce.published import FINE_TUNING, MISTRAL, NPO, QWEN, TABLE

CONCEPTS = ("cybersecurity", "safety")
#: Not given in the paper: the value of the NPO reference code and most of its followers.
BETA = 0.1
#: w1 and w2 are not given either.
RETAIN_WEIGHT = 1.0
#: Share of p_C on benign validation prompts that a checkpoint may lose; see ``silences``.
UTILITY_DROP = 0.03
#: MMLU points that a checkpoint may lose in the paper.
UTILITY_POINTS = 3.0
SAMPLES_PER_CONCEPT = 200
#: The layer of the paper's Fig. 3, as Hugging Face counts hidden states: 0 is the embedding.
LAYER = 5


@dataclass(frozen=True)
class PaperModel:
    """A model of the paper.

    Attributes:
        name: as in the published table.
        hub_id: on the Hugging Face hub.
        parameters: number of parameters, for the plan before the download.
        full_rank: concepts whose arms are trained without LoRA.
    """

    name: str
    hub_id: str
    parameters: int
    full_rank: tuple[str, ...] = ()


MODELS: Mapping[str, PaperModel] = {
    "mistral": PaperModel(MISTRAL, "mistralai/Mistral-7B-Instruct-v0.3", 7_248_023_552),
    "qwen": PaperModel(QWEN, "Qwen/Qwen2.5-7B-Instruct", 7_615_616_512, ("safety",)),
}


def recognised(model: str) -> PaperModel | None:
    """The paper's model with this hub id or folder name, if any."""
    parts = {part.lower() for part in Path(model).parts}
    for known in MODELS.values():
        cached = "models--" + known.hub_id.lower().replace("/", "--")
        if model.lower() == known.hub_id.lower() or cached in parts:
            return known
        if Path(model).is_dir() and Path(model).resolve().name.lower() == known.name.lower():
            return known
    return None


@dataclass(frozen=True)
class Setting:
    """One point of the grid.

    Attributes:
        rank: LoRA's r and α; None trains without adapters.
        learning_rate: of AdamW.
        epochs: passes over the deflections.
        batch_size: deflections in one optimizer step.
        retain_ratio: retain examples per deflection; None without retain data.
    """

    rank: int | None
    learning_rate: float
    epochs: int
    batch_size: int
    retain_ratio: int | None = None

    @property
    def name(self) -> str:
        """The setting's part of the arm's folder name."""
        rank = "full" if self.rank is None else f"r{self.rank}"
        name = f"{rank}-lr{self.learning_rate:.0e}-e{self.epochs}-b{self.batch_size}"
        return name + (f"-1to{self.retain_ratio}" if self.retain_ratio else "")

    @property
    def words(self) -> str:
        """The setting in words."""
        rank = "no LoRA" if self.rank is None else f"r = α = {self.rank}"
        ratio = f", forget:retain 1:{self.retain_ratio}" if self.retain_ratio else ""
        return (
            f"{rank}, learning rate {self.learning_rate:g}, {self.epochs} epochs, "
            f"batch {self.batch_size}{ratio}"
        )

    def steps(self, deflections: int) -> int:
        """Optimizer steps for this number of epochs and deflections."""
        return max(1, self.epochs * math.ceil(deflections / self.batch_size))


@dataclass(frozen=True)
class Grid:
    """The values to combine; one value per axis gives one setting."""

    ranks: tuple[int | None, ...] = (128, 256, 512)
    learning_rates: tuple[float, ...] = (5e-5, 1e-5)
    epochs: tuple[int, ...] = (10, 5)
    batch_sizes: tuple[int, ...] = (32, 16, 8)
    retain_ratios: tuple[int, ...] = (1, 2, 3)

    def points(self, *, retained: bool) -> tuple[Setting, ...]:
        """Every setting, the default first."""
        ratios: tuple[int | None, ...] = self.retain_ratios if retained else (None,)
        axes = (self.ranks, self.learning_rates, self.epochs, self.batch_sizes, ratios)
        return tuple(Setting(*values) for values in product(*axes))

    def headline(self) -> Grid:
        """The first value of each axis: the single point without ``--grid``."""
        return Grid(*(axis[:1] for axis in vars(self).values()))


PAPER_GRID = Grid()
#: The grid is for LoRA; without adapters the smaller learning rate comes first.
FULL_RANK_GRID = Grid(ranks=(None,), learning_rates=(1e-5, 5e-5))


def arms_of(concept: str) -> tuple[tuple[str, bool], ...]:
    """(objective, retained) of a concept's published rows; all four for any other concept."""
    published = {(row.objective, row.retained) for row in TABLE if row.concept == concept}
    everything = ((NPO, False), (FINE_TUNING, False), (NPO, True), (FINE_TUNING, True))
    return tuple(arm for arm in everything if arm in published or not published)
