"""What a command needed, next to what its plan announced: ``plan`` in a folder's manifest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from analyses.costs.devices import most_resident
from interp.errors import SpilloverError
from interp.store import read_json, write_json

MANIFEST = "manifest.json"
SO_FAR = "plan_so_far.json"  # of sessions that were interrupted, until the command ends
PLAN = "plan"


@contextmanager
def watched(
    folder: Path, expected: Mapping[str, Any] | None, *, anew: bool = False
) -> Iterator[None]:
    """Around a command: add ``plan.expected`` and ``plan.actual`` to the folder's manifest.

    Sessions of a resumed command add up: its seconds are their sum, its peaks the largest one, and
    the plan is the first one's. A session that ends early leaves its part in ``SO_FAR``, unless the
    command had finished before. ``processor_seconds`` are summed over the threads of this process
    and of the workers that it has ended: with one thread they are less than ``seconds`` where other
    programs share the processor.

    Args:
        folder: of the command's results.
        expected: what the plan announced, if there was one.
        anew: forget earlier sessions.
    """
    import torch

    earlier = {} if anew else _kept(folder)
    has_gpu = torch.cuda.is_available()
    for device in range(torch.cuda.device_count() if has_gpu else 0):
        torch.cuda.reset_peak_memory_stats(device)
    started, computed = time.monotonic(), _computed()
    interrupted = folder / SO_FAR
    if not anew and not earlier and interrupted.is_file():
        earlier = dict(read_json(interrupted, ()))
    before = earlier.get("actual") or {}

    def so_far() -> dict[str, Any]:
        on_devices = [
            torch.cuda.max_memory_allocated(device)
            for device in range(torch.cuda.device_count() if has_gpu else 0)
        ]
        took = {
            "seconds": time.monotonic() - started + (before.get("seconds") or 0.0),
            "processor_seconds": _computed() - computed + (before.get("processor_seconds") or 0.0),
            "device_bytes": max([before.get("device_bytes") or 0, *on_devices]),
            "main_bytes": max(before.get("main_bytes") or 0, most_resident()),
        }
        return {"expected": earlier.get("expected") or expected, "actual": took}

    try:
        yield
    except BaseException:
        if folder.is_dir() and not _kept(folder):
            with suppress(SpilloverError, OSError):
                write_json(interrupted, so_far())
        raise
    path = folder / MANIFEST
    held = read_json(path, ()) if path.is_file() else {}
    write_json(path, {**held, PLAN: so_far()})
    interrupted.unlink(missing_ok=True)


def _computed() -> float:
    """Processor's seconds of this process and of those it started that have ended."""
    return time.process_time() + sum(os.times()[2:4])


def _kept(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    return dict(read_json(path, ()).get(PLAN) or {}) if path.is_file() else {}
