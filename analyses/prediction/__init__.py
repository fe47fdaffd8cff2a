"""Which domains will lose their refusals, told before any training."""

from analyses.prediction import by_gradient, by_state, trivial
from analyses.prediction.evidence import Evidence
from analyses.prediction.registry import PREDICTORS, Predictor, predictor
from analyses.prediction.skill import Outcome, Skill, skill

__all__ = [
    "PREDICTORS",
    "Evidence",
    "Outcome",
    "Predictor",
    "Skill",
    "by_gradient",
    "by_state",
    "predictor",
    "skill",
    "trivial",
]
