from .log_odds import VALID_AUC as VALID_AUC
from .log_odds import ResponsePrefix as ResponsePrefix
from .log_odds import ResponsePrefixes as ResponsePrefixes
from .log_odds import find_prefixes as find_prefixes
from .log_odds import log_odds_auc as log_odds_auc
from .log_odds import prefix_masses as prefix_masses
from .log_odds import refusal_log_odds as refusal_log_odds

__all__ = [
    "VALID_AUC",
    "ResponsePrefix",
    "ResponsePrefixes",
    "find_prefixes",
    "log_odds_auc",
    "prefix_masses",
    "refusal_log_odds",
]
