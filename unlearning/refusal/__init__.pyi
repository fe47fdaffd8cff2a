from .log_odds import VALID_AUC as VALID_AUC
from .log_odds import Opener as Opener
from .log_odds import Openers as Openers
from .log_odds import find_openers as find_openers
from .log_odds import margin_auc as margin_auc
from .log_odds import margins as margins
from .log_odds import opener_masses as opener_masses

__all__ = [
    "VALID_AUC",
    "Opener",
    "Openers",
    "find_openers",
    "margin_auc",
    "margins",
    "opener_masses",
]
