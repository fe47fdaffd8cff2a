from .cosines import cosine_map as cosine_map
from .cosines import plain_cosines as plain_cosines
from .embedding import StateMap as StateMap
from .embedding import state_map as state_map
from .maps import SimilarityMap as SimilarityMap
from .metric import causal_coordinates as causal_coordinates
from .metric import whitening as whitening
from .rotations import Rotation as Rotation
from .rotations import against_controls as against_controls
from .rotations import rotation as rotation

__all__ = [
    "Rotation",
    "SimilarityMap",
    "StateMap",
    "against_controls",
    "causal_coordinates",
    "cosine_map",
    "plain_cosines",
    "rotation",
    "state_map",
    "whitening",
]
