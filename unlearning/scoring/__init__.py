"""What a generated answer is: phrases, classifiers and judges behind one interface; agreement."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
