from .activation import attribute as attribute
from .activation import patch as patch
from .effects import Cell as Cell
from .effects import Effects as Effects
from .effects import PatchAgreement as PatchAgreement
from .effects import patch_agreement as patch_agreement
from .pairs import PromptPairs as PromptPairs
from .pairs import with_roles as with_roles
from .places import in_turn as in_turn
from .places import keeping as keeping
from .places import read_all as read_all
from .places import read_out as read_out
from .recording import Recording as Recording
from .recording import may_record as may_record
from .recording import numbers as numbers
from .recording import recording_of as recording_of
from .runs import WHOLE as WHOLE
from .runs import PatchRuns as PatchRuns
from .runs import between_models as between_models
from .runs import with_each_token as with_each_token
from .stitching import Stitching as Stitching
from .stitching import stitch as stitch
from .weights import by_layer as by_layer
from .weights import by_matrix as by_matrix
from .weights import by_module as by_module
from .weights import in_layers as in_layers
from .weights import patch_weights as patch_weights
from .weights import weights_from as weights_from
from .weights import weights_replaced as weights_replaced

__all__ = [
    "WHOLE",
    "Cell",
    "Effects",
    "PatchAgreement",
    "PatchRuns",
    "PromptPairs",
    "Recording",
    "Stitching",
    "attribute",
    "between_models",
    "by_layer",
    "by_matrix",
    "by_module",
    "in_layers",
    "in_turn",
    "keeping",
    "may_record",
    "numbers",
    "patch",
    "patch_agreement",
    "patch_weights",
    "read_all",
    "read_out",
    "recording_of",
    "stitch",
    "weights_from",
    "weights_replaced",
    "with_each_token",
    "with_roles",
]
