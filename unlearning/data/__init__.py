"""Prompts: the table, its splits, the built-in matched pairs, and public benchmarks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
