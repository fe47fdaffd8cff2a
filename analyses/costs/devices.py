"""The device that a command was given, and the memory that is free there."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """A device.

    Attributes:
        kind: torch's name of it.
        name: in words.
        total, free: bytes of its memory; None if unknown.
    """

    kind: str
    name: str
    total: int | None = None
    free: int | None = None

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def line(self) -> str:
        """The device in words."""
        if self.total is None or self.free is None:
            return self.name
        return f"{self.name}, {self.free / 2**30:.0f} of {self.total / 2**30:.0f} GiB free"


def device_of(options: Mapping[str, Any]) -> Device:
    """The device of the arguments of ``LanguageModel.load``: CUDA where there is one, by default.

    An unusable one is taken as the CPU: loading says what is wrong with it.
    """
    import torch

    wanted = options.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        if device.type == "cuda":
            return _cuda(device)
    except (RuntimeError, AssertionError, ValueError):
        return _cpu()
    return _cpu() if device.type == "cpu" else Device(str(device), str(device))


def _cuda(device: torch.device) -> Device:
    import torch

    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    return Device(str(device), properties.name, int(total), int(free))


def _cpu() -> Device:
    import torch

    threads = torch.get_num_threads()
    memory = psutil.virtual_memory()
    name = f"CPU, {threads} {'thread' if threads == 1 else 'threads'}"
    return Device("cpu", name, int(memory.total), int(memory.available))


def free_threads() -> int:
    """How many of torch's threads have a processor core to themselves now, at least one.

    A thread without one makes the others wait for it, and they compute while they wait.
    """
    import torch

    threads = torch.get_num_threads()
    if threads == 1:
        return 1
    used = psutil.cpu_percent(interval=0.2, percpu=True)
    process = psutil.Process()
    cores = process.cpu_affinity() if hasattr(process, "cpu_affinity") else range(len(used))
    free = sum(1 - used[core] / 100 for core in cores)
    return max(1, min(threads, round(free)))


def resident() -> int:
    """Bytes of main memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def most_resident() -> int:
    """The largest number of bytes of main memory that this process has held."""
    # On Linux, ru_maxrss would carry the peak of a parent process across fork and exec.
    status = Path("/proc/self/status")
    for line in status.read_text(encoding="utf-8").splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
