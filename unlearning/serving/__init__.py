"""Models behind a server that speaks OpenAI's chat completions: asked once, kept on the disk."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
