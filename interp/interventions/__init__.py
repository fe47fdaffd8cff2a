"""Edit states or weights of a running model: ablate, add, clamp, orthogonalise; the logit lens."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
