from . import data as data
from . import deflections as deflections
from . import generation as generation
from . import losses as losses
from . import organism as organism
from . import refusal as refusal
from . import scoring as scoring
from . import serving as serving
from . import training as training
from . import utility as utility

__all__ = [
    "data",
    "deflections",
    "generation",
    "losses",
    "organism",
    "refusal",
    "scoring",
    "serving",
    "training",
    "utility",
]
