"""Leakage matrices: unlearn every domain in turn, in one model or in several."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
