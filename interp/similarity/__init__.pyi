from .cka import cka_map as cka_map
from .cka import debiased_cka as debiased_cka
from .cosines import cosine_map as cosine_map
from .cosines import plain_cosines as plain_cosines
from .embedding import StateMap as StateMap
from .embedding import state_map as state_map
from .gains import GainByUnit as GainByUnit
from .gains import gain_by_unit as gain_by_unit
from .independence import cosine_shift as cosine_shift
from .maps import SimilarityMap as SimilarityMap
from .metric import causal_coordinates as causal_coordinates
from .metric import whitening as whitening
from .procrustes import procrustes_map as procrustes_map
from .rotations import Rotation as Rotation
from .rotations import Rotations as Rotations
from .rotations import against_controls as against_controls
from .rotations import rotation as rotation
from .subspaces import overlap_map as overlap_map

__all__ = [
    "GainByUnit",
    "Rotation",
    "Rotations",
    "SimilarityMap",
    "StateMap",
    "against_controls",
    "causal_coordinates",
    "cka_map",
    "cosine_map",
    "cosine_shift",
    "debiased_cka",
    "gain_by_unit",
    "overlap_map",
    "plain_cosines",
    "procrustes_map",
    "rotation",
    "state_map",
    "whitening",
]
