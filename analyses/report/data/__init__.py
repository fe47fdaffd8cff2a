"""What a reader of the report can explore, as JSON: one function of a run per section."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
