"""Every domain unlearned in turn: the leakage matrix of one model or of several."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
