"""The model organism: a small language model trained from scratch on a synthetic world."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
