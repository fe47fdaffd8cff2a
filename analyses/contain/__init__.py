"""Keeping unlearning narrow: ways to do it, what they keep where they were not trained, advice."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
