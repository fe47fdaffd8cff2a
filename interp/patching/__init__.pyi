from .activation import patch as patch
from .attribution import attribute as attribute
from .effects import Cell as Cell
from .effects import Effects as Effects
from .effects import PatchAgreement as PatchAgreement
from .effects import patch_agreement as patch_agreement
from .exchange import WHOLE as WHOLE
from .exchange import Exchange as Exchange
from .exchange import between_models as between_models
from .exchange import with_each_token as with_each_token
from .pairs import PromptPairs as PromptPairs
from .pairs import with_roles as with_roles
from .places import keeping as keeping
from .places import read_out as read_out
from .restoration import by_layer as by_layer
from .restoration import by_matrix as by_matrix
from .restoration import by_module as by_module
from .restoration import in_layers as in_layers
from .restoration import patch_weights as patch_weights
from .restoration import weights_from as weights_from
from .stitching import Stitching as Stitching
from .stitching import stitch as stitch

__all__ = [
    "WHOLE",
    "Cell",
    "Effects",
    "Exchange",
    "PatchAgreement",
    "PromptPairs",
    "Stitching",
    "attribute",
    "between_models",
    "by_layer",
    "by_matrix",
    "by_module",
    "in_layers",
    "keeping",
    "patch",
    "patch_agreement",
    "patch_weights",
    "read_out",
    "stitch",
    "weights_from",
    "with_each_token",
    "with_roles",
]
