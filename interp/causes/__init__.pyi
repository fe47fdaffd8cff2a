from .change import CAUSES as CAUSES
from .change import MOVES as MOVES
from .change import PLAYERS as PLAYERS
from .change import Change as Change
from .controls import control_effects as control_effects
from .controls import foreign_effect as foreign_effect
from .stitched import StitchedPrompts as StitchedPrompts
from .undoing import COALITIONS as COALITIONS
from .undoing import Undone as Undone
from .undoing import undo as undo
from .verdict import LEAST_GAP as LEAST_GAP
from .verdict import MIXED as MIXED
from .verdict import CauseVerdict as CauseVerdict
from .verdict import decide as decide
from .verdict import entry_layer as entry_layer
from .verdict import leading as leading

__all__ = [
    "CAUSES",
    "COALITIONS",
    "LEAST_GAP",
    "MIXED",
    "MOVES",
    "PLAYERS",
    "CauseVerdict",
    "Change",
    "StitchedPrompts",
    "Undone",
    "control_effects",
    "decide",
    "entry_layer",
    "foreign_effect",
    "leading",
    "undo",
]
