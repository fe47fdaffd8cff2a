"""How a model represents things: read, fit, compare, intervene.

Texts, labels, models and readouts go in; arrays and directions come out. This package knows
nothing of refusals, domains, training or files of prompts, and imports neither ``unlearning``
nor ``analyses``.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
