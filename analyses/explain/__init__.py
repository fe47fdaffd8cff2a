"""Why a domain lost its refusals: which change of the model carries the loss, and where."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
