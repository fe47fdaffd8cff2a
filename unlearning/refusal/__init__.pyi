from .log_odds import VALID_AUC as VALID_AUC
from .log_odds import log_odds_auc as log_odds_auc
from .log_odds import prefix_masses as prefix_masses
from .log_odds import readout_of as readout_of
from .log_odds import refusal_log_odds as refusal_log_odds
from .prefix_tree import ResponsePrefix as ResponsePrefix
from .prefix_tree import ResponsePrefixes as ResponsePrefixes
from .prefix_tree import find_prefixes as find_prefixes
from .prefix_tree import shared_weights as shared_weights

__all__ = [
    "VALID_AUC",
    "ResponsePrefix",
    "ResponsePrefixes",
    "find_prefixes",
    "log_odds_auc",
    "prefix_masses",
    "readout_of",
    "refusal_log_odds",
    "shared_weights",
]
