"""Edit a model's states or weights: ablate, add, set, orthogonalise. Also: the logit lens."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
