"""Evaluation of one model: refusal, over-refusal and coherence.

``spillover evaluate MODEL``: :mod:`plan` describes and checks the evaluation, :mod:`engine` queries
the model, :mod:`measures` turns scores into numbers with intervals, :mod:`page` and :mod:`words`
show them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
