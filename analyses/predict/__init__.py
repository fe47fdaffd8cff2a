"""Which domains will lose their refusals, told before any training."""

from analyses.predict import by_gradient, by_state, trivial
from analyses.predict.evidence import Evidence
from analyses.predict.registry import PREDICTORS, Predictor, predictor
from analyses.predict.skill import Outcome, Skill, skill

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
