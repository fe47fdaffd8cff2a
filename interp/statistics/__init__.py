"""Intervals, nulls and noise: what any comparison of directions rests on."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
