"""Seconds per unit of work on this machine, measured in a moment on a cut model."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from analyses.costs.cut import built, cut_config, with_weights
from analyses.costs.footprint import Footprint
from analyses.costs.memory import StepRows
from analyses.costs.work import Work

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from unlearning.training import TrainingSettings

# A model of so many weights is measured as a whole; a larger one is cut, with fewer tokens.
SMALL = 20_000_000
LARGEST_CUT = 300_000_000
SHORT_VOCABULARY = 1024
LONG_ENOUGH = 0.15  # seconds that a measurement takes at least, unless the batch is smaller

# What does not depend on the model, in seconds on one core of 2023.
START = 5.0
STEP = 0.02  # Trainer's own work in a step
SCORED = 0.02
ARM = 1.5
PAGE = 9.0


@dataclass(frozen=True)
class Rates:
    """Seconds per token that is read, generated or trained on, and per optimizer step."""

    read: float
    generated: float
    trained: float = 0.0
    step: float = 0.0
    is_rough: bool = False

    def seconds(self, work: Work) -> float:
        """The time of ``work``, with what does not depend on the model."""
        return (
            START
            + work.read * self.read
            + work.generated * self.generated
            + work.trained * self.trained
            + work.steps * (self.step + STEP)
            + work.scored * SCORED
            + work.arms * ARM
            + work.pages * PAGE
        )


@dataclass(frozen=True)
class Shapes:
    """The batches whose speed matters.

    Attributes:
        rows: prompts in one forward when reading and generating.
        prompt: tokens of a prompt.
        own: tokens of a prompt that are not shared with all others.
        step: of training; None without.
    """

    rows: int
    prompt: int
    own: int
    step: StepRows | None = None


def measured_rates(
    config: PretrainedConfig,
    footprint: Footprint,
    dtype: torch.dtype,
    device: str,
    shapes: Shapes,
    settings: TrainingSettings | None,
) -> Rates:
    """Rates of a model with this configuration, from a cut of it on ``device``.

    Where a cut does not run, they follow from the speed of a matrix product.
    """
    key = config.to_json_string(use_diff=False)
    return _rates(key, _Asked(config, footprint, settings), dtype, device, shapes)


@dataclass(frozen=True, eq=False)
class _Asked:
    """Arguments that cannot be hashed; the configuration is known by the key next to it."""

    config: PretrainedConfig
    footprint: Footprint
    settings: TrainingSettings | None

    @property
    def matters(self) -> tuple[object, ...]:
        """The settings on which the rates depend."""
        one = self.settings
        if one is None:
            return ()
        return (
            *(one.trained, one.lora_rank, one.lora_targets, one.lora_exclude, one.autocast),
            *(one.activation_checkpointing, one.separate_backward),
        )

    def __hash__(self) -> int:
        return hash(self.matters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Asked) and self.matters == other.matters


@lru_cache(maxsize=64)
def _rates(_key: str, asked: _Asked, dtype: torch.dtype, device: str, shapes: Shapes) -> Rates:
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            return _Cut(asked, dtype, device, shapes).rates()
    except Exception:  # an architecture that needs real weights or inputs, or no memory
        return _rule_of_thumb(asked.footprint, device)


class _Cut:
    """A cut model on the device, and how its times grow to those of the whole one."""

    def __init__(self, asked: _Asked, dtype: torch.dtype, device: str, shapes: Shapes) -> None:
        self.device, self.shapes, self.settings = device, shapes, asked.settings
        whole, config = asked.footprint, asked.config
        head = config.hidden_size * whole.vocabulary
        tied = 1 if config.tie_word_embeddings else 2
        layer = max(1, (whole.parameters - tied * head) // whole.layers)
        if whole.parameters <= SMALL:
            self.layers, vocabulary = whole.layers, None
        else:
            self.layers = max(1, min(whole.layers, LARGEST_CUT // layer))
            vocabulary = SHORT_VOCABULARY
        self.scale = whole.layers / self.layers
        # The head multiplies as fast as the layers: its weights in layers of the cut.
        self.head = head / (layer * self.layers) if vocabulary else 0.0
        self.trained = whole.trained
        cut = built(cut_config(config, self.layers, vocabulary), self.settings, dtype)
        self.model = with_weights(cut, device)

    def rates(self) -> Rates:
        with torch.no_grad():
            read = self._reading()
            generated = self._generating()
        if self.settings is None or self.shapes.step is None:
            return Rates(read, generated)
        return Rates(read, generated, *self._training(self.settings, self.shapes.step))

    def _reading(self) -> float:
        length = max(1, self.shapes.own)

        def reading(rows: int) -> Callable[[], object]:
            return partial(self._forward, rows, length, logits_to_keep=1)

        seconds = self._time(reading, self.shapes.rows) / length
        return seconds * (self.scale + self.head / length)

    def _generating(self) -> float:
        length = max(1, self.shapes.prompt)

        def decoding(rows: int) -> Callable[[], object]:
            cache = self._forward(rows, length, logits_to_keep=1, use_cache=True).past_key_values
            read = count(length)
            return lambda: self._forward(
                rows, 1, cached=next(read), past_key_values=cache, use_cache=True
            )

        return self._time(decoding, self.shapes.rows, 16) * (self.scale + self.head)

    def _training(self, settings: TrainingSettings, batch: StepRows) -> tuple[float, float]:
        parameters = [one for one in self.model.parameters() if one.requires_grad]
        length, response = max(2, round(batch.tokens)), max(1, round(batch.response))
        kind = torch.device(self.device).type
        halved = torch.autocast(kind, torch.bfloat16) if settings.autocast else nullcontext()

        def forward_and_backward(rows: int) -> None:
            with halved:
                output = self._forward(rows, length, logits_to_keep=min(length, response + 1))
                loss = output.logits.float().log_softmax(-1)[..., 0].sum()
            loss.backward()

        def training(rows: int) -> Callable[[], object]:
            return partial(forward_and_backward, rows)

        rows = max(1, round(batch.in_passes(separate=settings.separate_backward)))
        seconds = self._time(training, rows) / length
        recomputed = 4 / 3 if settings.activation_checkpointing else 1.0
        token = seconds * (self.scale * recomputed + self.head * min(1.0, response / length))
        optimizer = torch.optim.AdamW(parameters)
        optimizer.step()
        step = self._time(lambda _rows: optimizer.step, 1)
        share = self.trained / max(1, sum(one.numel() for one in parameters))
        return token, step * max(1.0, share)

    def _forward(self, rows: int, tokens: int, *, cached: int = 0, **options: Any) -> Any:
        ids = torch.zeros(rows, tokens, dtype=torch.long, device=self.device)
        mask = torch.ones(rows, tokens + cached, dtype=torch.long, device=self.device)
        places = torch.arange(cached, cached + tokens, device=self.device).expand(rows, -1)
        options.setdefault("use_cache", False)
        return self.model(input_ids=ids, attention_mask=mask, position_ids=places, **options)

    def _time(
        self, making: Callable[[int], Callable[[], object]], most: int, times: int = 4
    ) -> float:
        """Seconds per row of what ``making(rows)`` gives with ``most`` rows.

        A single row takes far more than its share of a batch. So the time of many rows follows from
        those of fewer, which take long enough, and of ``times`` as many, along a line. Each is the
        least of several: other processes only add to them.
        """
        rows = 1
        while (seconds := self._least(making(rows), 3)) < LONG_ENOUGH and rows < most:
            rows = min(most, rows * (4 if seconds < LONG_ENOUGH / 8 else 2))
        if rows == most:
            return seconds / rows
        more = min(most, times * rows)
        slope = max(0.0, (self._least(making(more), 2) - seconds) / (more - rows))
        return (seconds + slope * (most - rows)) / most

    def _least(self, run: Callable[[], object], times: int) -> float:
        run()  # the first call allocates and chooses kernels
        return min(self._once(run) for _ in range(times))

    def _once(self, run: Callable[[], object]) -> float:
        self._wait()
        started = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)


def _rule_of_thumb(footprint: Footprint, device: str) -> Rates:
    """2 operations per weight and token, 6 with a backward, at a third of a product's speed."""
    size = 4096 if torch.device(device).type == "cuda" else 512
    matrix = torch.ones(size, size, device=device)
    for _ in range(2):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        elapsed = time.perf_counter() - started
    token = 2 * footprint.parameters / (0.3 * 2 * size**3 / elapsed)
    return Rates(token, 3 * token, 3 * token, is_rough=True)
