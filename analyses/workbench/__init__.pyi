from .examples import example_run as example_run
from .gate import direction_gate as direction_gate
from .gate import transfer_matrix as transfer_matrix
from .harm import HarmAndRefusal as HarmAndRefusal
from .harm import extractions as extractions
from .harm import harm_and_refusal as harm_and_refusal
from .loading import load as load
from .patches import patch as patch
from .patches import stitch as stitch
from .responses import generate as generate
from .responses import refusal_log_odds as refusal_log_odds
from .responses import score as score
from .states import collect as collect
from .states import domain_contrasts as domain_contrasts
from .states import fit_directions as fit_directions
from .states import state_map as state_map
from .tables import prompts as prompts
from .training import TrainingRecord as TrainingRecord
from .training import UnlearnedModel as UnlearnedModel
from .training import unlearn as unlearn

__all__ = [
    "HarmAndRefusal",
    "TrainingRecord",
    "UnlearnedModel",
    "collect",
    "direction_gate",
    "domain_contrasts",
    "example_run",
    "extractions",
    "fit_directions",
    "generate",
    "harm_and_refusal",
    "load",
    "patch",
    "prompts",
    "refusal_log_odds",
    "score",
    "state_map",
    "stitch",
    "transfer_matrix",
    "unlearn",
]
