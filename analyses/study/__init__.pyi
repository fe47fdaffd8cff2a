from .asked import check as check
from .asked import run_plan as run_plan
from .asked import study_plan as study_plan
from .baseline import Baseline as Baseline
from .baseline import answer_log as answer_log
from .baseline import establish as establish
from .baseline import scored_base as scored_base
from .command import compare as compare
from .command import demo as demo
from .command import study as study
from .context import Context as Context
from .context import study_context as study_context
from .costs import check_line as check_line
from .costs import study_costs as study_costs
from .deflected import deflections_of as deflections_of
from .deflected import held_deflections as held_deflections
from .deflected import require_arms as require_arms
from .deflected import with_enough_deflections as with_enough_deflections
from .engine import make_arms as make_arms
from .engine import recorded as recorded
from .engine import run_study as run_study
from .launcher import refuse_launcher as refuse_launcher
from .making import load_made as load_made
from .making import make_arm as make_arm
from .making import require_replaceable as require_replaceable
from .making import train_arm as train_arm
from .methods import METHODS as METHODS
from .methods import Containment as Containment
from .methods import Guard as Guard
from .methods import Method as Method
from .methods import method as method
from .mixing import RANKING as RANKING
from .mixing import mixture_of as mixture_of
from .mixing import pool_of as pool_of
from .plan import LEAST_ANSWERS as LEAST_ANSWERS
from .plan import LEAST_RECOVERY as LEAST_RECOVERY
from .plan import ArmPlan as ArmPlan
from .plan import StudyPlan as StudyPlan
from .plan import organism_plan as organism_plan
from .plan import parse_retain as parse_retain
from .plan import unlearning_arms as unlearning_arms
from .plan import weights_to_try as weights_to_try
from .readout import NoLogOddsError as NoLogOddsError
from .readout import prefixes_of as prefixes_of
from .readout import require_prefixes as require_prefixes
from .readout import thought_note as thought_note
from .resolve import Defaults as Defaults
from .resolve import defaults_for as defaults_for
from .resolve import name_of as name_of
from .resolve import prompts_of as prompts_of
from .resolve import require_model as require_model
from .resolve import scorer_of as scorer_of
from .work import FORECAST_GROUPS as FORECAST_GROUPS
from .work import work_of as work_of
from .work import work_with_prompts as work_with_prompts
from .workers import make_arms_in_workers as make_arms_in_workers
from .workers import make_planned as make_planned
from .workers import require_workers as require_workers

__all__ = [
    "FORECAST_GROUPS",
    "LEAST_ANSWERS",
    "LEAST_RECOVERY",
    "METHODS",
    "RANKING",
    "ArmPlan",
    "Baseline",
    "Containment",
    "Context",
    "Defaults",
    "Guard",
    "Method",
    "NoLogOddsError",
    "StudyPlan",
    "answer_log",
    "check",
    "check_line",
    "compare",
    "defaults_for",
    "deflections_of",
    "demo",
    "establish",
    "held_deflections",
    "load_made",
    "make_arm",
    "make_arms",
    "make_arms_in_workers",
    "make_planned",
    "method",
    "mixture_of",
    "name_of",
    "organism_plan",
    "parse_retain",
    "pool_of",
    "prefixes_of",
    "prompts_of",
    "recorded",
    "refuse_launcher",
    "require_arms",
    "require_model",
    "require_prefixes",
    "require_replaceable",
    "require_workers",
    "run_plan",
    "run_study",
    "scored_base",
    "scorer_of",
    "study",
    "study_context",
    "study_costs",
    "study_plan",
    "thought_note",
    "train_arm",
    "unlearning_arms",
    "weights_to_try",
    "with_enough_deflections",
    "work_of",
    "work_with_prompts",
]
