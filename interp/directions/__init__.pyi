from .controls import disjoint_controls as disjoint_controls
from .direction_set import DirectionSet as DirectionSet
from .estimators import FirstPrincipalComponent as FirstPrincipalComponent
from .estimators import LogisticProbe as LogisticProbe
from .estimators import MeanDifference as MeanDifference
from .estimators import PairedPrincipalComponent as PairedPrincipalComponent
from .estimators import WhitenedMeanDifference as WhitenedMeanDifference
from .fitted import FittedDirections as FittedDirections
from .fitting import Estimator as Estimator
from .fitting import mean_difference as mean_difference
from .fitting import mean_difference_weights as mean_difference_weights
from .leace import Leace as Leace
from .projections import Projections as Projections
from .projections import held_out_projections as held_out_projections
from .refits import Refits as Refits
from .refits import Replicates as Replicates
from .registry import ESTIMATORS as ESTIMATORS
from .registry import estimator as estimator
from .registry import estimator_title as estimator_title
from .subspace import ContrastSubspace as ContrastSubspace
from .subspace import contrast_bases as contrast_bases

__all__ = [
    "ESTIMATORS",
    "ContrastSubspace",
    "DirectionSet",
    "Estimator",
    "FirstPrincipalComponent",
    "FittedDirections",
    "Leace",
    "LogisticProbe",
    "MeanDifference",
    "PairedPrincipalComponent",
    "Projections",
    "Refits",
    "Replicates",
    "WhitenedMeanDifference",
    "contrast_bases",
    "disjoint_controls",
    "estimator",
    "estimator_title",
    "held_out_projections",
    "mean_difference",
    "mean_difference_weights",
]
