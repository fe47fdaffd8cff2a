"""One model as it is: what it refuses, what it refuses wrongly, and whether it still speaks.

``spillover evaluate MODEL``: :mod:`plan` says what is asked and checks it, :mod:`engine` asks the
model, :mod:`measures` turns scores into numbers with intervals, :mod:`page` and :mod:`terminal`
show them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
