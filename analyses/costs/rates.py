"""Seconds per unit of work on this machine, measured in a moment on a cut model."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import count
from typing import TYPE_CHECKING, Any

import torch

from analyses.costs.cut import Trained, built, cut_config, with_weights
from analyses.costs.devices import free_threads
from analyses.costs.footprint import Footprint
from analyses.costs.memory import StepRows
from analyses.costs.work import Work

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from unlearning.training import TrainingSettings

# A model of so many weights is measured as a whole; of a larger one, some layers with so many
# weights (more than a processor's caches hold), and a smaller vocabulary.
SMALL = 20_000_000
CUT = {"cpu": 16_000_000, "other": 1_000_000_000}
SHORT_VOCABULARY = 1024
# Seconds that a measured batch takes at least, unless all rows take less, and from which on a
# single call has to do; how many times as long the larger batch takes; how often both are measured.
LONG_ENOUGH, TOO_SLOW = 0.05, 1.0
LARGER = 10
REPEATS = 3

# What does not depend on the model, in seconds of one core of 2023: from the stages of commands on
# the model organism, where the model itself takes next to nothing.
START = 0.1
ROW = 2e-4
STEP = 0.02  # Trainer's own work in a step
SCORED = 0.02
ARM = 0.2
PAGE = 3.5
MAP = 0.02  # a cosine of two directions, or a rotation, in one layer, with its null
LOADED = 4e-9  # for a byte of weights
DEQUANTISED = 20.0  # a GGUF file's metadata and names of weights (SmolLM2), before its weights


@dataclass(frozen=True)
class Rates:
    """Seconds per token that is read, generated or trained on, and per optimizer step.

    Attributes:
        layers: of the model.
        load: seconds to read and to hash its weights.
        is_rough: whether they follow from a rule of thumb.
        is_crowded: whether fewer threads were timed, because other programs use the processor.
    """

    read: float
    generated: float
    trained: float = 0.0
    step: float = 0.0
    layers: int = 1
    load: float = 0.0
    is_rough: bool = False
    is_crowded: bool = False

    def seconds(self, work: Work) -> float:
        """The time of ``work``, with what does not depend on the model."""
        return (
            START
            + work.rows * ROW
            + work.read * self.read
            + work.generated * self.generated
            + work.trained * self.trained
            + work.steps * (self.step + STEP)
            + work.scored * SCORED
            + work.arms * (ARM + self.load)
            + work.pages * PAGE
            + work.maps * self.layers * MAP
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
    return _rates(Trained(config, settings), footprint, dtype, device, shapes)


@lru_cache(maxsize=64)
def _rates(
    asked: Trained, footprint: Footprint, dtype: torch.dtype, device: str, shapes: Shapes
) -> Rates:
    with _only_free_threads(device) as is_crowded:
        try:
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.simplefilter("ignore")
                found = _Cut(asked, footprint, dtype, device, shapes).rates()
        except Exception:  # an architecture that needs real weights or inputs, or no memory
            found = _rule_of_thumb(footprint, device)
    load = LOADED * footprint.parameters * dtype.itemsize
    return replace(found, layers=footprint.layers, load=load, is_crowded=is_crowded)


@contextmanager
def _only_free_threads(device: str) -> Iterator[bool]:
    """Compute with the threads that have a core, and say whether some have none.

    Neither the clock nor the processor's time tells how long threads would take that did not wait
    for each other.
    """
    threads = torch.get_num_threads()
    free = free_threads() if torch.device(device).type == "cpu" else threads
    torch.set_num_threads(free)
    try:
        yield free < threads
    finally:
        torch.set_num_threads(threads)


class _Cut:
    """A cut model on the device, and how its times grow to those of the whole one."""

    def __init__(
        self, asked: Trained, whole: Footprint, dtype: torch.dtype, device: str, shapes: Shapes
    ) -> None:
        self.device, self.shapes, self.settings = device, shapes, asked.settings
        config = asked.config
        head = config.hidden_size * whole.vocabulary
        tied = 1 if config.tie_word_embeddings else 2
        layer = max(1, (whole.parameters - tied * head) // whole.layers)
        if whole.parameters <= SMALL:
            self.layers, vocabulary = whole.layers, None
        else:
            most = CUT["cpu" if torch.device(device).type == "cpu" else "other"]
            self.layers = max(1, min(whole.layers, most // layer))
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
            cache = self._cache(rows, length)
            read = count(length)
            return lambda: self._forward(
                rows, 1, cached=next(read), past_key_values=cache, use_cache=True
            )

        return self._time(decoding, self.shapes.rows) * (self.scale + self.head)

    def _cache(self, rows: int, length: int) -> Any:
        """A cache of ``rows`` equal prompts, of which one is read where the cache can repeat it."""
        try:
            cache = self._forward(1, length, logits_to_keep=1, use_cache=True).past_key_values
            cache.batch_repeat_interleave(rows)
        except Exception:  # an architecture with a cache of its kind alone
            cache = self._forward(rows, length, logits_to_keep=1, use_cache=True).past_key_values
        return cache

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

    def _time(self, making: Callable[[int], Callable[[], object]], most: int) -> float:
        """Seconds per row of what ``making(rows)`` gives with ``most`` rows.

        A single row takes far more than its share of a batch, and the system gives memory anew for
        each large tensor. So the time of many rows follows from those of fewer, which take long
        enough, and of some ten times as many, along a line. Each is the least of several:
        other processes only add to them.
        """
        rows = 1
        while (seconds := self._least(making(rows))) < LONG_ENOUGH and rows < most:
            rows = min(most, rows * (4 if seconds < LONG_ENOUGH / 4 else 2))
        if rows == most or seconds > TOO_SLOW:
            return seconds / rows
        larger = max(2.0, LARGER * LONG_ENOUGH / seconds)
        more = min(most, round(rows * larger))
        slope = max(0.0, (self._least(making(more)) - seconds) / (more - rows))
        return (seconds + slope * (most - rows)) / most

    def _least(self, run: Callable[[], object]) -> float:
        first = self._once(run)  # allocates and chooses kernels
        return first if first > TOO_SLOW else min(self._once(run) for _ in range(REPEATS))

    def _once(self, run: Callable[[], object]) -> float:
        self._wait()
        started, computed = time.perf_counter(), time.process_time()
        run()
        self._wait()
        elapsed = time.perf_counter() - started
        if torch.device(self.device).type != "cpu":
            return elapsed
        # Without the time in which other programs had the processor.
        return min(elapsed, (time.process_time() - computed) / torch.get_num_threads())

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
