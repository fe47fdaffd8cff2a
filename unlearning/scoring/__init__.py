"""Scorers of generated answers (phrases, classifiers, judges), one interface, and agreement."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
