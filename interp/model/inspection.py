"""Look at a model, in the middle of its training if need be, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients for a while; afterwards every module is in its own mode again.

    Without dropout no random number is drawn. Modes are kept module by module, because training
    code leaves some parts of a model in eval mode on purpose.
    """
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
