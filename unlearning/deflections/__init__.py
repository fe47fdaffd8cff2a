"""Phase 1: the model's refusals of the prompts to forget."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
