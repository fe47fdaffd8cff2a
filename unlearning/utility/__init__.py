"""Utility of a model: divergence from its base, perplexity, tasks with right answers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
