from .command import agree as agree
from .command import calibrate as calibrate

__all__ = ["agree", "calibrate"]
