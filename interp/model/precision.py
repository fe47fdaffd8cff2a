"""Float64 for what is reported, wherever the values lie: some devices (Apple's GPUs) have none."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


@cache
def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64."""
    try:
        torch.zeros(1, device=device).double()
    except (TypeError, RuntimeError, NotImplementedError):
        return False
    return True


def doubled(values: Tensor) -> Tensor:
    """``values`` in float64, with their graph: on their device, or else on the CPU."""
    return (values if has_float64(values.device) else values.cpu()).double()


def placed(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on a device; float64 becomes float32 where the device has none."""
    narrow = values.dtype == torch.float64 and not has_float64(device)
    return values.to(device, torch.float32 if narrow else values.dtype)
