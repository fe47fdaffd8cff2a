"""Query models on a server with OpenAI's chat completions API, and cache answers on disk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
