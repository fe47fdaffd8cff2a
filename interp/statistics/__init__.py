"""Intervals, null distributions and noise estimates for all comparisons of directions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
