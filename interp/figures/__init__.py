"""Matplotlib functions that take numbers from this package and return figures.

The figures are not registered with pyplot, so none stays open. A notebook shows each one as vector
graphics.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
