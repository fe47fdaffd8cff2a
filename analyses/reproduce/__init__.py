"""Mushtaq et al. 2025 as a preset: its protocol, its published numbers and the measured ones."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
