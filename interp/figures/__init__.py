"""Matplotlib functions that take numbers from this package and return figures.

None is known to pyplot, so none stays open; in a notebook each shows itself as vectors.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
