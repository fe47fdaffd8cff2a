"""Causes of a domain's lost refusals: the change that carries the loss, and its place."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
