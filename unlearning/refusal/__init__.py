"""Refusal without generation: the log-odds that a response begins with a refusal prefix."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
