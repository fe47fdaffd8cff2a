"""After-models of an organism in which exactly one thing changed, planted by editing weights.

A cause that is a move of states is a rank-one edit of one layer's MLP output, u wᵀ: u is the move,
and w is the read-out of the MLP's hidden activations whose mean over harmful and over benign
prompts is exactly what is asked for, with the least spread within classes and over all other tokens
(the closed form of Meng et al. 2022 with two constraints). So the class means at that layer move by
exactly what was planted on the prompts that it was fitted on; what is measured is measured on
others.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses.study.baseline import prefixes_of
from interp.activations import collect
from interp.causes import (
    CAUSES,
    CauseVerdict,
    Change,
    Undone,
    control_effects,
    decide,
    entry_layer,
    leading,
    undo,
)
from interp.model import LanguageModel, Point, reading
from interp.patching import read_out
from interp.readout import Readout
from interp.statistics import Contrast
from unlearning.deflections import respond
from unlearning.organism import load_world
from unlearning.refusal import ResponsePrefixes, readout_of
from unlearning.scoring import find_scorer

NOTHING, SCATTER = "nothing", "scatter"
PLANTS = (*CAUSES, SCATTER, NOTHING)
LEAST_LOSS = 1.5  # nats on training prompts: where less is lost there is no cause to name
# Of the covariance's mean eigenvalue; keeps the fitted read-out from using directions of no spread.
RIDGE = 1e-2


@dataclass(frozen=True)
class Plant:
    """What was planted: kind, domain, layer, and how much of it.

    Two kinds are none of the causes: ``scatter`` moves single prompts along r, each otherwise, and
    no class mean; ``nothing`` is noise in the weights, as large as the edit of some cause.

    ``size``: gain factor, degrees, shift in units of r, nats taken from the refusal prefixes, or
    standard deviation of the scatter in units of r.
    """

    kind: str
    domain: str
    layer: int
    size: float
    seed: int
    like: str = ""


SIZES = {
    "gain": (0.05, 0.5), "rotation": (45, 100), "offset": (0.3, 1.0), "routing": (2.0, 6.0),
    "scatter": (0.8, 2.0),
}  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """An organism on which causes are planted."""

    lm: LanguageModel
    prompts: pd.DataFrame

    @classmethod
    def load(cls, folder: str | Path) -> Ground:
        return cls(LanguageModel.load(folder, device="cpu"), load_world(folder).prompts())

    @cached_property
    def domains(self) -> tuple[str, ...]:
        harmful = self.prompts[self.prompts["label"] == "harmful"]
        return tuple(sorted(harmful["domain"].unique()))

    @cached_property
    def prefixes(self) -> ResponsePrefixes:
        train = self.prompts[self.prompts["split"] == "train"]
        some = train.groupby(["domain", "label"]).head(48)
        answers = respond(self.lm, some, find_scorer("grammar"), max_new_tokens=8, batch_size=256)
        return prefixes_of(answers)

    @property
    def readout(self) -> Readout:
        return readout_of(self.prefixes)

    def texts(self, domain: str, split: str) -> tuple[list[str], list[str], list[str], list[str]]:
        """Harmful and benign prompts, and the pair that each belongs to."""
        rows = self.prompts[(self.prompts["domain"] == domain) & (self.prompts["split"] == split)]
        found = [rows[rows["label"] == label] for label in ("harmful", "benign")]
        texts = [list(part["prompt"]) for part in found]
        return (*texts, *(list(part["pair"]) for part in found))  # type: ignore[return-value]

    def contrast(self, lm: LanguageModel, domain: str, split: str) -> Contrast:
        harmful, benign, *pairs = self.texts(domain, split)
        states = collect(lm, [*harmful, *benign]).states
        positive = np.arange(len(states)) < len(harmful)
        return Contrast.from_labels(states, positive, [*pairs[0], *pairs[1]])

    def base_contrast(self, domain: str, split: str) -> Contrast:
        known = self.__dict__.setdefault("_contrasts", {})
        if (domain, split) not in known:
            known[domain, split] = self.contrast(self.lm, domain, split)
        return known[domain, split]

    def draw(self, kind: str, seed: int) -> Plant:
        """A plant of this kind that loses enough on training prompts; all else by the seed."""
        rng = np.random.default_rng([seed, PLANTS.index(kind)])
        while True:
            like = kind if kind != NOTHING else str(rng.choice(CAUSES))
            domain, layer = str(rng.choice(self.domains)), int(rng.integers(self.lm.n_layers))
            size, draw = float(rng.uniform(*SIZES[like])), int(rng.integers(2**31))
            plant = Plant(like, domain, layer, size, draw)
            if self._loss(plant) > LEAST_LOSS:
                return replace(plant, kind=kind, like=like)

    def _loss(self, plant: Plant) -> float:
        rows = [self.lm.chat.encode(text) for text in self.texts(plant.domain, "train")[0]]
        with torch.no_grad():
            base, after = (
                read_out(lm, rows, self.readout).mean() for lm in (self.lm, self.after(plant))
            )
        return float(base - after)

    def after(self, plant: Plant) -> LanguageModel:
        """The after-model."""
        changed = replace(self.lm, model=copy.deepcopy(self.lm.model))
        rng = np.random.default_rng([plant.seed, 1])
        if plant.kind == NOTHING:
            planted = self.after(replace(plant, kind=plant.like))
            _noise_as_large(self.lm, planted, changed, plant.seed)
        elif plant.kind == "routing":
            self._plant_in_head(changed, plant)
        else:
            self._plant_in_layer(changed, plant, rng)
        return changed

    def _plant_in_layer(self, lm: LanguageModel, plant: Plant, rng: np.random.Generator) -> None:
        contrast = self.base_contrast(plant.domain, "train")
        states = contrast.states[:, plant.layer]
        means = [states[contrast.classes == c].mean(axis=0) for c in (0, 1)]
        r = means[0] - means[1]
        length = np.linalg.norm(r)
        targets = np.array([0.5, -0.5])  # of harmful and benign
        if plant.kind == "gain":
            move = (plant.size - 1) * r
        elif plant.kind == "offset":
            move, targets = -plant.size * r, np.ones(2)
        elif plant.kind == SCATTER:
            move, targets = plant.size * r, np.zeros(2)
        else:
            # Towards a direction that states do take: their covariance about the class means.
            own = states - np.stack(means)[contrast.classes]
            towards = rng.normal(size=len(own)) @ own
            towards -= (towards @ r) / length**2 * r
            towards *= length / np.linalg.norm(towards)
            angle = np.radians(plant.size)
            move = (np.cos(angle) - 1) * r + np.sin(angle) * towards
        projection = lm.layers[plant.layer].mlp.down_proj
        _write(projection.weight, move, self._reader(lm, projection, plant, targets))

    def _plant_in_head(self, lm: LanguageModel, plant: Plant) -> None:
        head = lm.model.get_output_embeddings()
        w = self._reader(lm, head, plant, np.array([1.0, 0.0]))
        refusing = np.zeros(head.weight.shape[0])
        refusing[[token for (token,) in self.prefixes.refusal]] = 1.0
        _write(head.weight, -plant.size * refusing, w)

    def _reader(
        self, lm: LanguageModel, module: torch.nn.Module, plant: Plant, targets: np.ndarray
    ) -> np.ndarray:
        """w with means ``targets`` over harmful and benign prompts' last inputs to ``module``."""
        harmful, benign, *_ = self.texts(plant.domain, "train")
        last, others = [], []

        def keep(_index: int, hidden: Tensor) -> None:
            last.append(hidden[:, -1])
            others.append(hidden[:, 1:-1].reshape(-1, hidden.shape[-1]))

        rows = [lm.chat.encode(text) for text in (*harmful, *benign)]
        order = []
        with torch.no_grad(), reading([Point(module, before=True)], keep):
            for length in {len(row) for row in rows}:  # no padding among the other tokens
                same = [i for i, row in enumerate(rows) if len(row) == length]
                order += same
                lm.logits(lm.chat.pad([rows[i] for i in same], lm.device), keep=length)
        inputs = torch.cat(last).double().numpy()[np.argsort(order)]
        rest = torch.cat(others).double().numpy()
        sides = np.arange(len(inputs)) < len(harmful)
        means = np.stack([inputs[sides].mean(axis=0), inputs[~sides].mean(axis=0)])
        own = inputs - np.where(sides[:, None], means[0], means[1])
        spread = own.T @ own / len(own) + rest.T @ rest / len(rest)
        spread += RIDGE * np.trace(spread) / len(spread) * np.eye(len(spread))
        solved = np.linalg.solve(spread, means.T)
        if plant.kind == SCATTER:
            rng = np.random.default_rng([plant.seed, 2])
            axis = own.T @ rng.normal(size=len(own))
            axis -= solved @ np.linalg.solve(means @ solved, means @ axis)
            return axis / np.std(own @ axis)
        return solved @ np.linalg.solve(means @ solved, targets)


def explained(
    ground: Ground, plant: Plant, *, draws: int = 100, split: str = "test"
) -> tuple[CauseVerdict, tuple[Undone, ...]]:
    """The verdict on a planted change, from prompts that it was not fitted on."""
    after = ground.after(plant)
    change = Change(
        ground.base_contrast(plant.domain, split),
        ground.contrast(after, plant.domain, split),
        tuple(range(ground.lm.n_layers)),
    )
    harmful = ground.texts(plant.domain, split)[0]
    undone = undo(ground.lm, after, harmful, change, ground.readout)
    chosen = entry_layer(undone)
    first = leading(chosen.shares(resamples=1))
    controls = None
    if chosen.gap > 1 and first in CAUSES:
        controls = control_effects(
            ground.lm, after, harmful, change, ground.readout,
            layer=chosen.layer, cause=first, draws=draws, seed=plant.seed,
        )  # fmt: skip
    return decide(chosen, controls), undone


def _write(weight: torch.nn.Parameter, move: np.ndarray, reader: np.ndarray) -> None:
    weight.data += torch.from_numpy(np.outer(move, reader)).to(weight)


def _noise_as_large(
    base: LanguageModel, planted: LanguageModel, changed: LanguageModel, seed: int
) -> None:
    """Every parameter that was edited is moved by noise of the edit's norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in changed.model.named_parameters():
        moved = planted.model.get_parameter(name) - base.model.get_parameter(name)
        if moved.norm() > 0:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data += noise * (moved.norm() / noise.norm())
