"""What a notebook does, one step a call: load, collect, fit, unlearn, patch, generate, score.

Tables of prompts go in where the rooms below take lists of texts, rows and labels. The front door
(``import spillover as sp``) shows these functions under the same names.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
