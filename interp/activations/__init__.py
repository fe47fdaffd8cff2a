"""Collect activations: layers, sites and positions to read, and where the states are kept."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
