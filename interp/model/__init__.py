"""A causal language model with its tokenizer and chat format, and hooks on its layers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
