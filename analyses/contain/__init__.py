"""Containment: methods that limit leakage, their recovery in held-out domains, and advice."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
