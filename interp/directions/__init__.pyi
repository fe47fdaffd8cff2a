from .controls import disjoint_controls as disjoint_controls
from .direction_set import DirectionSet as DirectionSet
from .leace import Leace as Leace
from .mean_difference import MeanDifference as MeanDifference
from .mean_difference import mean_difference_weights as mean_difference_weights
from .principal_components import FirstPrincipalComponent as FirstPrincipalComponent
from .principal_components import PairedPrincipalComponent as PairedPrincipalComponent
from .probe import LogisticProbe as LogisticProbe
from .projections import Projections as Projections
from .projections import held_out_projections as held_out_projections
from .registry import ESTIMATORS as ESTIMATORS
from .registry import estimator as estimator
from .subspace import ContrastSubspace as ContrastSubspace
from .subspace import contrast_bases as contrast_bases
from .whitened import WhitenedMeanDifference as WhitenedMeanDifference

__all__ = [
    "ESTIMATORS",
    "ContrastSubspace",
    "DirectionSet",
    "FirstPrincipalComponent",
    "Leace",
    "LogisticProbe",
    "MeanDifference",
    "PairedPrincipalComponent",
    "Projections",
    "WhitenedMeanDifference",
    "contrast_bases",
    "disjoint_controls",
    "estimator",
    "held_out_projections",
    "mean_difference_weights",
]
