"""Shared and routed circuits: which low-rank slices the refusals of a model organism train.

Both kinds have the same language, prompts, refusal texts and prefixes, and the same two stages:

1. pretraining, that of the packaged model organism. All weights learn to answer every prompt; the
   last prompt token represents the harm of each domain; and the upper layers know one state from
   which any refusal is written.
2. alignment: the weights are frozen. LoRA adapters on all linear weights of the layers, one slice
   for each domain, learn to refuse.

Shared: every row trains all slices. Routed (gradient routing, Cloud et al. 2410.04332): a refusal
trains the slice of its domain only. There, some slices are off in each row, so that a slice does
its work whatever the others do:

- a harmful prompt whose own slice is on is refused; of the others, some are on;
- a harmful prompt whose own slice is off is answered, by all others or by a single one. So no
  slice learns to refuse for another domain. (With many others on in every such row, they learned to
  prevent refusal everywhere);
- a benign prompt is answered, by all slices or by a single one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from interp.model import Chat, LanguageModel
from unlearning.organism.slices import ROUTED, Slices
from unlearning.organism.training import (
    EncodedLessons,
    Lesson,
    Progress,
    Stage,
    fit_lessons,
    fit_stage,
    lesson_loss,
)
from unlearning.organism.vocabulary import DOMAINS

SLICED = Stage(
    steps=300, learning_rate=4e-3, compliance=0.1, batch_size=80, weight_decay=0.05, harmful=0.6
)
SLICE_RANK = 4
# Of routed circuits. The share of harmful prompts whose own slice is on; for each of these, one of
# the chances with which every other slice is on; and the share of the other prompts that a single
# slice answers.
OWN_ON, OTHERS_ON, ALONE = 0.6, (0.5, 0.7, 0.85), 0.6


def teach_twin(
    model: Any,
    chat: Chat,
    lessons: Sequence[Lesson],
    circuits: str,
    *,
    seed: int,
    stages: Sequence[Stage],
    progress: Progress = lambda *_: None,
) -> tuple[LanguageModel, Slices]:
    """Train ``model`` in place in both stages.

    Args:
        model: a causal language model in float32 with random weights.
        chat: renders prompts and responses for it.
        lessons: the training examples, with the domains of harmful ones.
        circuits: ``shared`` or ``routed``.
        seed: draws prompts, responses and the adapters.
        stages: pretraining and alignment.
        progress: called with (step, steps in all, loss).

    Returns:
        The model with its adapters, and their slices.

    Raises:
        TrainingError: a loss is not finite.
    """
    generator = np.random.default_rng(seed)
    encoded = EncodedLessons(chat, lessons)
    total, done = sum(stage.steps for stage in stages), 0
    lm = LanguageModel(model, chat.tokenizer, chat, "model organism")
    for loss in fit_lessons(model, chat, encoded, stages[0], generator, seed):
        done += 1
        progress(done, total, loss)
    model.eval()
    lm = _with_adapters(lm, SLICE_RANK * len(DOMAINS), seed)
    slices = Slices(lm.model, DOMAINS)
    adapters = [one for one in lm.model.parameters() if one.requires_grad]
    batch = Sliced(encoded, circuits == ROUTED)
    for loss in fit_stage(
        adapters, stages[1], lambda: batch.loss(lm, slices, stages[1], generator)
    ):
        done += 1
        progress(done, total, loss)
    lm.model.eval()
    return lm, slices


def _with_adapters(lm: LanguageModel, rank: int, seed: int) -> LanguageModel:
    """Adapters on all linear weights but the head's; all else is frozen.

    Not those of ``unlearning.training``: it imports scorers, and one of them is of this subpackage.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(lm.model, config)
    return lm.with_model(adapted)


class Switched(NamedTuple):
    """Of each row of a batch: whether it is answered, and its slices that are on and trained."""

    complies: Bool[np.ndarray, " row"]
    on: Bool[np.ndarray, "row slice"]
    trained: Bool[np.ndarray, "row slice"]


class Sliced:
    """Draws batches of the second stage: rows with a response, and the slices that each trains."""

    def __init__(self, encoded: EncodedLessons, is_routed: bool) -> None:
        self.encoded, self.is_routed = encoded, is_routed
        places = [DOMAINS.index(one.domain) if one.domain else -1 for one in encoded.lessons]
        self.places = np.array(places)

    def loss(
        self, lm: LanguageModel, slices: Slices, stage: Stage, generator: np.random.Generator
    ) -> Tensor:
        """The loss of a batch, in whose gradient every row has its part of the slices."""
        rows, complies = self.encoded.choose(stage, generator)
        drawn = self.switched(rows, complies, generator)
        tokens = [
            self.encoded.tokens(row, comply)
            for row, comply in zip(rows, drawn.complies, strict=True)
        ]
        with slices.rows(torch.from_numpy(drawn.trained), torch.from_numpy(drawn.on)):
            return lesson_loss(lm.model, lm.chat, tokens)

    def switched(
        self, rows: Sequence[int], complies: Sequence[bool], generator: np.random.Generator
    ) -> Switched:
        """Which slices of each row are on and trained: all, unless circuits are routed.

        Args:
            rows: of the lessons.
            complies: whether a row is answered even if it is harmful and its own slice is on.
            generator: draws what is on.
        """
        shape = len(rows), len(DOMAINS)
        if not self.is_routed:
            everything = np.ones(shape, dtype=bool)
            return Switched(np.array(complies), everything, everything)
        own = self.places[rows, None] == np.arange(len(DOMAINS))
        is_harmful = own.any(axis=1)
        has_own = is_harmful & (generator.random(len(rows)) < OWN_ON)
        chances = generator.choice(OTHERS_ON, (len(rows), 1))
        with_own = own | (generator.random(shape) < chances)
        single = np.argmax(np.where(own, 0.0, generator.random(shape)), axis=1)
        is_alone = generator.random((len(rows), 1)) < ALONE
        without = np.where(is_alone, np.eye(len(DOMAINS), dtype=bool)[single], ~own)
        on = np.where(has_own[:, None], with_own, without)
        trained = np.where(has_own[:, None], own, on)
        return Switched(np.array(complies) | (is_harmful & ~has_own), on, trained)
