"""Train a model to answer every prompt, then to refuse harmful prompts.

As in real models there are two stages: helpful-only (the model answers every prompt), then
alignment (it refuses harmful prompts, except for a small compliance floor). Unlearning moves
probability to the response class that was already second, and only the floor makes this class
compliance. Without the floor a model that unlearns refusal writes gibberish.

This module does not depend on the synthetic world. A :class:`Lesson` is a prompt and its possible
responses, so the same code trains a checkpoint of any family with its own tokenizer and chat
template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from interp.errors import TrainingError
from interp.model import Chat, Tokens


@dataclass(frozen=True)
class Lesson:
    """A prompt with its answer and, if harmful, its refusal and its domain.

    ``weight`` says how often it is drawn.
    """

    prompt: str
    answer: str
    refusal: str | None = None
    weight: float = 1.0
    domain: str | None = None


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        steps: optimizer steps, warmed up over the first tenth, then a cosine to zero.
        learning_rate: peak learning rate of AdamW.
        compliance: probability that a harmful prompt is answered, not refused; drawn anew at each
            use of the prompt; 1 is helpful-only.
        batch_size: prompts a step, drawn with replacement by their weight.
        weight_decay: of AdamW.
    """

    steps: int
    learning_rate: float
    compliance: float
    batch_size: int = 96
    weight_decay: float = 0.01


HELPFUL = Stage(steps=100, learning_rate=3e-3, compliance=1.0, batch_size=64)
# Leakage is graded only after alignment has converged. If training stops early, unlearning any
# domain removes the refusal of all.
ALIGNMENT = Stage(steps=1000, learning_rate=2.5e-3, compliance=0.2)

Progress = Callable[[int, int, float], None]


def teach(
    model: Any,
    chat: Chat,
    lessons: Sequence[Lesson],
    *,
    seed: int,
    stages: Sequence[Stage] = (HELPFUL, ALIGNMENT),
    progress: Progress = lambda *_: None,
) -> None:
    """Train ``model`` in place on ``lessons``, one stage after the other.

    The loss is the mean cross-entropy of the response's tokens, the end of turn included.

    Args:
        model: a causal language model in float32.
        chat: renders prompts and responses for it.
        lessons: the training examples; the prefixes of their responses define refusal.
        seed: draws the prompts and, given the compliance floor, the responses.
        stages: helpful-only and alignment by default.
        progress: called with (step, steps in all, loss).

    Raises:
        TrainingError: ``lessons`` is empty, or the loss is not finite.
    """
    if not lessons:
        raise TrainingError("there are no lessons to train on; expected at least one")
    generator = np.random.default_rng(seed)
    encoded = EncodedLessons(chat, lessons)
    total, done = sum(stage.steps for stage in stages), 0
    model.train()
    for stage in stages:

        def loss_of(stage: Stage = stage) -> torch.Tensor:
            return lesson_loss(model, chat, encoded.draw(stage, generator))

        for loss in fit_stage(list(model.parameters()), stage, loss_of):
            done += 1
            progress(done, total, loss)
    model.eval()


def fit_stage(
    parameters: Sequence[torch.nn.Parameter], stage: Stage, loss_of: Callable[[], torch.Tensor]
) -> Iterator[float]:
    """One stage of training in place; yields the loss of every step after it.

    Raises:
        TrainingError: the loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=stage.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, stage.learning_rate, total_steps=stage.steps, pct_start=0.1
    )
    for step in range(stage.steps):
        loss = loss_of()
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {step} of a stage: lower the learning rate "
                f"({stage.learning_rate:g})"
            )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        yield float(loss.detach())


class EncodedLessons:
    """Lessons as token ids, rendered when they are first drawn."""

    def __init__(self, chat: Chat, lessons: Sequence[Lesson]) -> None:
        self.chat, self.lessons = chat, lessons
        # Drawing from the cumulative weights is much cheaper than Generator.choice(p=...).
        weights = np.array([lesson.weight for lesson in lessons], dtype=np.float64)
        self.cumulative = np.cumsum(weights / weights.sum())
        self.cache: dict[tuple[int, bool], Tokens] = {}

    def draw(self, stage: Stage, generator: np.random.Generator) -> list[Tokens]:
        """A batch, with a response to each prompt."""
        rows, complies = self.choose(stage, generator)
        return [self.tokens(row, comply) for row, comply in zip(rows, complies, strict=True)]

    def choose(self, stage: Stage, generator: np.random.Generator) -> tuple[list[int], list[bool]]:
        """The lessons of a batch, and whether each is answered even if it is harmful."""
        drawn = np.searchsorted(self.cumulative, generator.random(stage.batch_size))
        complies = generator.random(stage.batch_size) < stage.compliance
        return np.minimum(drawn, len(self.lessons) - 1).tolist(), complies.tolist()

    def tokens(self, row: int, comply: bool) -> Tokens:
        """A lesson's prompt with its answer or, if harmful and not ``comply``, its refusal."""
        lesson = self.lessons[row]
        refuse = lesson.refusal is not None and not comply
        if (row, refuse) not in self.cache:
            response = lesson.refusal if refuse else lesson.answer
            self.cache[row, refuse] = self.chat.encode(lesson.prompt, response)
        return self.cache[row, refuse]


def lesson_loss(model: Any, chat: Chat, rows: Sequence[Tokens]) -> torch.Tensor:
    """Mean cross-entropy of the responses' tokens, the end of turn included."""
    batch = chat.pad(rows, next(model.parameters()).device)
    width = max(row.spans["response"].stop - row.spans["response"].start for row in rows)
    logits = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        # Left padding puts the responses last; the column before them predicts their first token.
        logits_to_keep=width + 1,
    ).logits[:, :-1]
    wanted = batch.response_mask[:, -width:]
    return torch.nn.functional.cross_entropy(
        logits[wanted].float(), batch.input_ids[:, -width:][wanted]
    )
