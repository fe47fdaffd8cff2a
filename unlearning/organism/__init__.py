"""The model organism: a small language model trained from scratch in a planted world."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
