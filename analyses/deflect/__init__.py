"""Phase 1 by itself: a model's refusals of one domain's prompts, as a data set to unlearn from.

``spillover deflect MODEL``: :mod:`plan` says what is asked and checks it, :mod:`engine` asks the
model and keeps its refusals, :mod:`data_set` says what they are good for and writes them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
