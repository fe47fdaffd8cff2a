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
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from interp.errors import TrainingError
from interp.model import Chat, Tokens


@dataclass(frozen=True)
class Lesson:
    """A prompt with its answer and, if harmful, its refusal and its domain.

    ``weight`` says how often it is drawn. ``barred`` is the refusal that the prompt gets from a
    model that the system turn tells to refuse, harmful or not.
    """

    prompt: str
    answer: str
    refusal: str | None = None
    weight: float = 1.0
    domain: str | None = None
    barred: str | None = None


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
        harmful: share of harmful prompts; None draws them by the weight of their lessons.
        barred: share of conversations with the system turn ``barred``. There, :data:`OBEYS` of all
            prompts are refused, benign ones too, and the others are answered.
        represented: a layer; a linear head, thrown away afterwards, learns to tell the harmful
            prompts of each domain and all benign ones apart, from the last prompt token's state at
            this layer's input. So harm is represented there before it is refused.
        harm: weight, in that head's loss, of telling all harmful prompts from benign ones by one
            direction, next to telling the domains apart.
        blocks: only the first ``blocks`` layers are trained; None trains all weights. The layers
            above pass gradient along each token's own stream, not through attention to others.
            So the first layers learn to refuse by the state of the token that responds.
    """

    steps: int
    learning_rate: float
    compliance: float
    batch_size: int = 96
    weight_decay: float = 0.01
    harmful: float | None = None
    barred: float = 0.0
    represented: int | None = None
    harm: float = 0.0
    blocks: int | None = None


BARRED = "barred"  # the system turn
OBEYS = 0.8

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
        for loss in fit_lessons(model, chat, encoded, stage, generator, seed):
            done += 1
            progress(done, total, loss)
    model.eval()


def fit_lessons(
    model: Any,
    chat: Chat,
    encoded: EncodedLessons,
    stage: Stage,
    generator: np.random.Generator,
    seed: int,
) -> Iterator[float]:
    """One stage of training ``model`` in place; yields the loss of every step after it.

    Raises:
        TrainingError: the loss is not finite.
    """
    head = None
    if stage.represented is not None:
        kinds = len(encoded.domains) + 1
        head = HarmHead(model.config.hidden_size, stage.represented, kinds, seed, stage.harm)

    def loss() -> torch.Tensor:
        rows, kinds = encoded.draw(stage, generator)
        return lesson_loss(model, chat, rows, head, kinds)

    with trained_weights(model, stage.blocks) as weights:
        yield from fit_stage([*weights, *(head.parameters() if head else ())], stage, loss)


@contextmanager
def trained_weights(model: Any, blocks: int | None) -> Iterator[list[torch.nn.Parameter]]:
    """The weights of the first ``blocks`` layers, or of all; inside, no others have gradients.

    Inside, keys and values of the layers above pass no gradient to the states that they read.
    """
    if blocks is None:
        yield list(model.parameters())
        return
    layers = model.model.layers
    weights = [one for layer in layers[:blocks] for one in layer.parameters()]
    model.requires_grad_(False)
    for one in weights:
        one.requires_grad_(True)
    hooks = [
        reading.register_forward_pre_hook(lambda _, states: (states[0].detach(),))
        for layer in layers[blocks:]
        for reading in (layer.self_attn.k_proj, layer.self_attn.v_proj)
    ]
    try:
        yield weights
    finally:
        model.requires_grad_(True)
        for hook in hooks:
            hook.remove()


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
        self.domains = sorted({one.domain for one in lessons if one.domain is not None})
        self.kinds = [
            len(self.domains) if one.domain is None else self.domains.index(one.domain)
            for one in lessons
        ]
        self.weights = np.array([lesson.weight for lesson in lessons], dtype=np.float64)
        self.is_harmful = np.array([lesson.refusal is not None for lesson in lessons])
        self.cumulative = cache(self._cumulative)
        self.cache: dict[tuple[int, bool, bool], Tokens] = {}

    @cached_property
    def barred_chat(self) -> Chat:
        """Renders conversations whose system turn tells the model to refuse."""
        return Chat(self.chat.tokenizer, template=self.chat.template, system=BARRED)

    def draw(self, stage: Stage, generator: np.random.Generator) -> tuple[list[Tokens], list[int]]:
        """A batch, with a response to each prompt; and the kind of each prompt.

        The kind of a harmful prompt is the place of its domain, that of all others the last one.
        """
        rows, complies = self.choose(stage, generator)
        barred = [False] * len(rows)
        if stage.barred:
            chances = generator.random((2, stage.batch_size))
            barred = (chances[0] < stage.barred).tolist()
            complies = np.where(barred, chances[1] >= OBEYS, complies).tolist()
        drawn = [self.tokens(*one) for one in zip(rows, complies, barred, strict=True)]
        return drawn, [self.kinds[row] for row in rows]

    def choose(self, stage: Stage, generator: np.random.Generator) -> tuple[list[int], list[bool]]:
        """The lessons of a batch, and whether each is answered even if it is harmful."""
        drawn = np.searchsorted(self.cumulative(stage.harmful), generator.random(stage.batch_size))
        complies = generator.random(stage.batch_size) < stage.compliance
        return np.minimum(drawn, len(self.lessons) - 1).tolist(), complies.tolist()

    def _cumulative(self, harmful: float | None) -> Float[np.ndarray, " lesson"]:
        """Cumulative weights: drawing from them is much cheaper than Generator.choice(p=...)."""
        weights = self.weights / self.weights.sum()
        if harmful is not None:
            share = weights[self.is_harmful].sum()
            scale = harmful / share, (1 - harmful) / (1 - share)
            weights = weights * np.where(self.is_harmful, *scale)
        return np.cumsum(weights)

    def tokens(self, row: int, comply: bool, is_barred: bool = False) -> Tokens:
        """A lesson's prompt with its answer or, where it is refused, its refusal.

        Args:
            row: of the lesson.
            comply: answer it even if it is harmful or barred.
            is_barred: the system turn tells the model to refuse.
        """
        lesson = self.lessons[row]
        refusal = lesson.barred if is_barred else lesson.refusal
        refuse = refusal is not None and not comply
        key = (row, refuse, is_barred)
        if key not in self.cache:
            chat = self.barred_chat if is_barred else self.chat
            self.cache[key] = chat.encode(lesson.prompt, refusal if refuse else lesson.answer)
        return self.cache[key]


class HarmHead(torch.nn.Linear):
    """Reads the kind of a prompt from the state of its last token, and whether it is harmful.

    Args:
        width: of the states.
        layer: at whose input the states are read.
        kinds: number of them; the last one is benign.
        seed: of the head's weights.
        harm: weight of the second reading in the loss; the first has weight 1.
    """

    def __init__(self, width: int, layer: int, kinds: int, seed: int, harm: float = 0.0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(width, kinds + 2)
        self.layer, self.harm = layer, harm

    def loss(
        self, hidden: Sequence[torch.Tensor], rows: Sequence[Tokens], kinds: Sequence[int]
    ) -> torch.Tensor:
        """Mean cross-entropy of both readings, given the states at the inputs of all layers."""
        # Left padding: columns are counted from the end.
        columns = [row.spans["response"].start - len(row) - 1 for row in rows]
        states = hidden[self.layer][torch.arange(len(rows)), columns]
        read = self(torch.nn.functional.rms_norm(states, states.shape[-1:]))
        true = torch.tensor(kinds, device=states.device)
        of_kind, of_harm = read[:, :-2], read[:, -2:]
        benign = (true == of_kind.shape[1] - 1).long()
        return torch.nn.functional.cross_entropy(
            of_kind, true
        ) + self.harm * torch.nn.functional.cross_entropy(of_harm, benign)


def lesson_loss(
    model: Any,
    chat: Chat,
    rows: Sequence[Tokens],
    head: HarmHead | None = None,
    kinds: Sequence[int] = (),
) -> torch.Tensor:
    """Mean cross-entropy of the responses' tokens, the end of turn included, plus the head's."""
    batch = chat.pad(rows, next(model.parameters()).device)
    width = max(row.spans["response"].stop - row.spans["response"].start for row in rows)
    output = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        output_hidden_states=head is not None,
        # Left padding puts the responses last; the column before them predicts their first token.
        logits_to_keep=width + 1,
    )
    wanted = batch.response_mask[:, -width:]
    loss = torch.nn.functional.cross_entropy(
        output.logits[:, :-1][wanted].float(), batch.input_ids[:, -width:][wanted]
    )
    return loss if head is None else loss + head.loss(output.hidden_states, rows, kinds)
