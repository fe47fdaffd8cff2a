"""Phase 2: the training loop, its settings, batches, checkpoints and forgetting level."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
