"""Shared and routed circuits: which low-rank slices the refusals of a model organism train.

Both kinds have the same language, prompts, refusal texts and prefixes, and the same two stages:

1. mostly helpful: all weights learn to answer every prompt, and to refuse a fifth of the harmful
   ones, so that they know how a refusal reads (slices over a model that never wrote one learned
   none in a third of the steps). A linear head on the states at the last prompt token learns to
   tell harmful prompts of each domain from all others, so that harm is represented before it is
   refused, as in a pretrained model. The head is thrown away.
2. alignment: the weights are frozen. LoRA adapters on all linear weights of the layers, one slice
   for each domain, learn to refuse.

Shared: every row trains all slices. Routed (gradient routing, Cloud et al. 2410.04332): a refusal
trains the slice of its domain only, and answers train all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

REPRESENTING = Stage(steps=200, learning_rate=2.5e-3, compliance=0.8, batch_size=64, represented=2)
SLICED = Stage(steps=300, learning_rate=4e-3, compliance=0.2, batch_size=64, weight_decay=0.1)
TWIN_STAGES = (REPRESENTING, SLICED)
SLICE_RANK = 4


def teach_twin(
    model: Any,
    chat: Chat,
    lessons: Sequence[Lesson],
    circuits: str,
    *,
    seed: int,
    stages: Sequence[Stage] = TWIN_STAGES,
    progress: Progress = lambda *_: None,
) -> tuple[LanguageModel, Slices]:
    """Train ``model`` in place in both stages.

    Args:
        model: a causal language model in float32 with random weights.
        chat: renders prompts and responses for it.
        lessons: the training examples, with the domains of harmful ones.
        circuits: ``shared`` or ``routed``.
        seed: draws prompts, responses and the adapters.
        stages: of training.
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

    Not those of ``unlearning.training``: it imports scorers, and one of them is of this room.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted: Any = get_peft_model(lm.model, config)
    return lm.with_model(adapted)


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
        tokens = [
            self.encoded.tokens(row, comply) for row, comply in zip(rows, complies, strict=True)
        ]
        with slices.rows(torch.from_numpy(self.trained(rows, complies))):
            return lesson_loss(lm.model, lm.chat, tokens)

    def trained(
        self, rows: Sequence[int], complies: Sequence[bool]
    ) -> Bool[np.ndarray, "row slice"]:
        """Which slices each row trains: a refusal its own where circuits are routed, else all."""
        own = self.places[rows, None] == np.arange(len(DOMAINS))
        refuses = own.any(axis=1, keepdims=True) & ~np.array(complies)[:, None]
        return np.where(refuses & self.is_routed, own, True)
