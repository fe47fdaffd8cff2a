"""Collect activations: the layers, sites and positions to read, and the storage of the states."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
