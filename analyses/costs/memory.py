"""Bytes of a command's peak, on the device and in main memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyses.costs.checkpoints import Weights
from analyses.costs.devices import Device
from analyses.costs.footprint import Footprint

if TYPE_CHECKING:
    from unlearning.training import TrainingSettings

# Packages that a command imports after its plan, with their data: commands on the model organism
# ended 0 to 150 MiB above the plan and the model.
LATER = 150 * 2**20
# What a device's allocator and libraries hold beyond tensors.
CONTEXT = 2**29
CHUNK = 32 * 2**20  # float32 logits at a time


@dataclass(frozen=True)
class StepRows:
    """The rows of a step.

    Attributes:
        rows: forget examples in one forward.
        extra: retain examples in it.
        tokens, response: of a row.
    """

    rows: float
    extra: float
    tokens: float
    response: float

    def in_passes(self, *, separate: bool) -> float:
        """Rows that are in memory at a time."""
        return max(self.rows, self.extra) if separate else self.rows + self.extra


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak; ``device`` is 0 on the CPU."""

    device: float
    main: float


def step_memory(
    weights: Weights, footprint: Footprint, settings: TrainingSettings, batch: StepRows
) -> float:
    """Bytes of a trained model in the middle of a step, without any other model."""
    rows = batch.in_passes(separate=settings.separate_backward)
    return trained_model(weights, footprint, settings) + activations(
        footprint, settings, rows * batch.tokens
    ) + logits(weights, footprint, settings, batch)  # fmt: skip


def trained_model(weights: Weights, footprint: Footprint, settings: TrainingSettings) -> float:
    """Weights, gradients and AdamW's two moments; what trains is in float32."""
    if settings.trained == "lora":
        return weights.held + 16 * footprint.trained
    return 4 * weights.parameters + 12 * footprint.trained


def activations(footprint: Footprint, settings: TrainingSettings, tokens: float) -> float:
    """Bytes that ``tokens`` of a step keep for the backward."""
    if settings.activation_checkpointing:
        return tokens * (footprint.layers * footprint.state + footprint.layer)
    return tokens * footprint.layers * footprint.layer


def logits(
    weights: Weights, footprint: Footprint, settings: TrainingSettings, batch: StepRows
) -> float:
    """Logits of the response tokens with their gradients, and the reference's where they are read.

    A term of whole distributions makes float32 copies: of both models' logits, of their
    log-softmax, and of the gradient.
    """
    from unlearning.losses import RETAIN, for_forgetting

    half = settings.trained == "lora" and weights.dtype != "float32"
    rows = batch.in_passes(separate=settings.separate_backward)
    element = footprint.vocabulary * (batch.response + 1)
    held = rows * element * 2 * (2 if half or settings.autocast else 4) + CHUNK
    terms = [(for_forgetting(settings.objective), batch.rows)]
    if batch.extra:
        terms.append((RETAIN.find(settings.retain_objective), batch.extra))
    for term, count in terms:
        if {"logits", "reference_logits"} & set(term.needs):
            held += count * element * 20
        if term.on_pairs:
            held *= 2
    return held


def reading_memory(footprint: Footprint, rows: float, tokens: float) -> float:
    """Bytes of generating: keys and values, and the last token's logits in float32."""
    # A cache grows by copies.
    token = 1.2 * footprint.cache + footprint.reading
    return rows * (token * tokens + 12 * footprint.vocabulary)


def peak(device: Device, on_device: float, loaded: float) -> Memory:
    """The peak of a command from its models and batches on the device.

    Args:
        device: where models run.
        on_device: bytes of models, optimizer and batch there.
        loaded: bytes of all copies of the weights that pass through main memory at a time.
    """
    from analyses.costs.devices import resident

    here = resident() + LATER
    if device.is_cpu:
        return Memory(0.0, here + max(on_device, loaded))
    return Memory(on_device + CONTEXT, here + loaded)
