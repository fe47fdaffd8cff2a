from .accuracy import LeakageOutcome as LeakageOutcome
from .accuracy import Skill as Skill
from .accuracy import skill as skill
from .command import predict as predict
from .command import tournament as tournament
from .evidence import Evidence as Evidence
from .evidence import evidence_of as evidence_of
from .figures import cells_figure as cells_figure
from .figures import forecast_figure as forecast_figure
from .figures import tournament_figure as tournament_figure
from .forecasts import at_depth as at_depth
from .forecasts import forecast as forecast
from .products import ADAM_EPSILON as ADAM_EPSILON
from .prompt_skill import PromptSkill as PromptSkill
from .prompt_skill import forecast_skill as forecast_skill
from .registry import PREDICTORS as PREDICTORS
from .registry import Predictor as Predictor
from .registry import predictor as predictor
from .tournaments import read_choices as read_choices
from .tournaments import run_tournament as run_tournament
from .world import read_worlds as read_worlds

__all__ = [
    "ADAM_EPSILON",
    "PREDICTORS",
    "Evidence",
    "LeakageOutcome",
    "Predictor",
    "PromptSkill",
    "Skill",
    "at_depth",
    "cells_figure",
    "evidence_of",
    "forecast",
    "forecast_figure",
    "forecast_skill",
    "predict",
    "predictor",
    "read_choices",
    "read_worlds",
    "run_tournament",
    "skill",
    "tournament",
    "tournament_figure",
]
