"""Compare directions, subspaces and whole representations, within a model and before and after."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
