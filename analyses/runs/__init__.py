"""A run's folder and the tables computed from it: leakage, recovery, behaviour, rotations."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
