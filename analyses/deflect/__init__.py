"""Phase 1 alone: a data set of a model's refusals in one domain, for unlearning.

``spillover deflect MODEL``: :mod:`plan` holds and checks the options, :mod:`engine` collects the
model's refusals, :mod:`data_set` assesses and writes them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
