"""The steps of a notebook, one function each: load, collect, fit, unlearn, patch, generate, score.

These functions take tables of prompts; the packages below take lists of texts, rows and labels. The
front door (``import spillover as sp``) offers these functions under the same names.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
