from .checkpoint import load_world as load_world
from .checkpoint import shipped as shipped
from .checkpoint import slice_check_of as slice_check_of
from .checkpoint import train as train
from .checkpoint import training_stages as training_stages
from .grammar import Grammar as Grammar
from .lessons import table_lessons as table_lessons
from .slice_check import SliceCheck as SliceCheck
from .slice_check import check_slices as check_slices
from .slices import CIRCUITS as CIRCUITS
from .slices import Slices as Slices
from .slices import slice_deleted as slice_deleted
from .training import teach as teach
from .wordings import COMPLIANCES as COMPLIANCES
from .wordings import PREFIX_KINDS as PREFIX_KINDS
from .wordings import SHARED as SHARED
from .wordings import draw_responses as draw_responses
from .wordings import refusal_prefixes as refusal_prefixes
from .wordings import refusal_wordings as refusal_wordings
from .world import World as World

__all__ = [
    "CIRCUITS",
    "COMPLIANCES",
    "PREFIX_KINDS",
    "SHARED",
    "Grammar",
    "SliceCheck",
    "Slices",
    "World",
    "check_slices",
    "draw_responses",
    "load_world",
    "refusal_prefixes",
    "refusal_wordings",
    "shipped",
    "slice_check_of",
    "slice_deleted",
    "table_lessons",
    "teach",
    "train",
    "training_stages",
]
