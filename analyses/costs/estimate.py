"""The time and memory that a command will take, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analyses.costs.checkpoints import Weights, weights_of
from analyses.costs.cut import config_of
from analyses.costs.devices import Device, device_of
from analyses.costs.footprint import Footprint, footprint_of
from analyses.costs.memory import Memory, peak, reading_memory
from analyses.costs.rates import DEQUANTISED, Rates, Shapes, measured_rates
from analyses.costs.work import Extent, Reading
from interp.model import is_gguf

UNKNOWN = "memory and time: unknown until the model has been downloaded"
UNMEASURED = "time: not measured (--no-timing)"


@dataclass(frozen=True)
class CostedModel:
    """A model that a command will load, with the arguments of loading it.

    Attributes:
        source: hub id, folder, adapter folder or GGUF file.
        options: arguments of ``LanguageModel.load``.
        weights: its weights; by default, from the headers of its files.
    """

    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Weights | None = None

    def footprint(self, settings: Any = None) -> tuple[Weights, Footprint] | None:
        """Its weights and footprint; None while they are unknown."""
        config = config_of(self.source, self.options)
        if config is None:
            return None
        weights = self.weights or weights_of(self.source, self.options)
        dtype = (weights or Weights(0, 0)).torch_dtype
        found = footprint_of(config, settings, dtype)
        if weights is None:
            weights = Weights(found.parameters, found.parameters * dtype.itemsize)
        return weights, found

    def rates(self, shapes: Shapes, settings: Any = None) -> Rates | None:
        """Its rates on the device; None while they are unknown."""
        config, found = config_of(self.source, self.options), self.footprint(settings)
        if config is None or found is None:
            return None
        weights, footprint = found
        device = device_of(self.options).kind
        rates = measured_rates(config, footprint, weights.torch_dtype, device, shapes, settings)
        return replace(rates, load=rates.load + DEQUANTISED) if is_gguf(self.source) else rates


@dataclass(frozen=True)
class CostEstimate:
    """What a command will need.

    Attributes:
        device: where models run.
        memory: at the peak; None if unknown.
        seconds: expected and at most; None if unknown or not measured.
        why_no_time: the reason, in words.
        is_rough: whether a number follows from a rule of thumb.
        is_crowded: whether the time is that of fewer threads, because other programs run.
        weights: of the model; of the first one where there are several.
    """

    device: Device
    memory: Memory | None
    seconds: tuple[float, float] | None
    why_no_time: str = UNMEASURED
    is_rough: bool = False
    is_crowded: bool = False
    weights: Weights | None = None

    def lines(self) -> list[str]:
        """The estimate in words."""
        if self.memory is None:
            return [UNKNOWN]
        held = f"{size(self.memory.main)} of main memory"
        if self.memory.device:
            held = f"{size(self.memory.device)} on the device and {held}"
        roughly = ", roughly" if self.is_rough else ""
        lines = [self.weights.line] if self.weights else []
        lines.append(f"memory: about {held}{roughly}")
        if self.seconds is None:
            lines.append(self.why_no_time)
        else:
            expected, most = (span(one) for one in self.seconds)
            meanwhile = ", while other programs run" * self.is_crowded
            lines.append(
                f"time: about {expected}, at most {most}{roughly}, as measured now{meanwhile}"
            )
        return [
            *lines,
            f"device: {self.device.line}" + ("" if self.fits else "; this does not fit"),
        ]

    @property
    def fits(self) -> bool:
        """Whether the memory is free now, as far as known."""
        if self.memory is None or self.device.free is None:
            return True
        return (self.memory.device or self.memory.main) <= self.device.free

    def to_json(self) -> dict[str, float | None]:
        """``seconds`` (expected), ``seconds_at_most``, ``device_bytes`` and ``main_bytes``."""
        expected, most = self.seconds or (None, None)
        held = self.memory
        return {
            "seconds": expected,
            "seconds_at_most": most,
            "device_bytes": None if held is None else held.device,
            "main_bytes": None if held is None else held.main,
        }


def time_range(rates: Rates | None, extent: Extent) -> tuple[float, float] | None:
    """Expected and largest time of the work."""
    if rates is None:
        return None
    return rates.seconds(extent.expected), MARGIN * rates.seconds(extent.at_most)


def answering_estimate(
    subjects: Sequence[CostedModel],
    reading: Reading,
    work: Extent,
    batch_size: int,
    *,
    timing: bool = True,
) -> CostEstimate:
    """The needs of a command that reads and generates with models, one at a time.

    Args:
        subjects: the models, of which the first one's speed counts.
        reading: the lengths of the prompts.
        work: all that is done.
        batch_size: prompts in one forward.
        timing: measure the speed now.
    """
    device = device_of(subjects[0].options)
    found = [subject.footprint() for subject in subjects]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return CostEstimate(device, None, None)
    length = reading.prompt + reading.answer
    held = max(
        weights.held + reading_memory(footprint, batch_size, length) for weights, footprint in known
    )
    memory = peak(device, held, max(weights.held for weights, _ in known))
    shapes = Shapes(batch_size, round(reading.prompt), round(reading.own))
    rates = subjects[0].rates(shapes) if timing else None
    rough = any(one.is_rough for _, one in known) or (rates is not None and rates.is_rough)
    return CostEstimate(
        device,
        memory,
        time_range(rates, work),
        is_rough=rough,
        is_crowded=rates is not None and rates.is_crowded,
        weights=known[0][0],
    )


# A machine's speed changes from minute to minute.
MARGIN = 1.25


def size(held: float) -> str:
    """A number of bytes in words."""
    return f"{held / 2**30:.1f} GiB"


def span(seconds: float) -> str:
    """A time in words."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
