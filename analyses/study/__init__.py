"""One study: its plan, its base model, its arms, its workers, what it will cost."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
