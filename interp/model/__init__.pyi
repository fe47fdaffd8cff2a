from .adapters import adapter_base as adapter_base
from .adapters import load_adapter_weights as load_adapter_weights
from .adapters import merged as merged
from .batching import in_fitting_batches as in_fitting_batches
from .batching import in_order as in_order
from .batching import is_out_of_memory as is_out_of_memory
from .batching import map_in_batches as map_in_batches
from .batching import next_batch as next_batch
from .beginnings import begin as begin
from .beginnings import equal_up_to_rounding as equal_up_to_rounding
from .beginnings import same_numbers as same_numbers
from .beginnings import shared_beginning as shared_beginning
from .chat import Batch as Batch
from .chat import Chat as Chat
from .chat import Tokens as Tokens
from .context import require_room as require_room
from .entry import CannotEnter as CannotEnter
from .entry import container_of as container_of
from .entry import entering as entering
from .forwards import in_parts as in_parts
from .forwards import joined as joined
from .forwards import logits_of_last as logits_of_last
from .gguf import is_gguf as is_gguf
from .hooks import Hidden as Hidden
from .hooks import Point as Point
from .hooks import active_edits as active_edits
from .hooks import copied as copied
from .hooks import hidden_into as hidden_into
from .hooks import hidden_of as hidden_of
from .hooks import is_probing as is_probing
from .hooks import probing as probing
from .hooks import reading as reading
from .hooks import stopping_after as stopping_after
from .hooks import undisturbed as undisturbed
from .hooks import with_hidden as with_hidden
from .hooks import writing as writing
from .kept_checks import last_check as last_check
from .language_model import LanguageModel as LanguageModel
from .language_model import find_layers as find_layers
from .language_model import moved as moved
from .language_model import usable_device as usable_device
from .linear import LinearWeight as LinearWeight
from .linear import linear_weights as linear_weights
from .loading import check_source as check_source
from .merged_reading import adapters_merged as adapters_merged
from .packed import head_weights as head_weights
from .packed import require_plain_weights as require_plain_weights
from .precision import doubled as doubled
from .precision import has_float64 as has_float64
from .precision import placed as placed
from .probes import probe_tokens as probe_tokens
from .probes import relative_difference as relative_difference
from .self_check import AS_EXPECTED as AS_EXPECTED
from .self_check import SelfCheck as SelfCheck
from .thoughts import without_thoughts as without_thoughts

__all__ = [
    "AS_EXPECTED",
    "Batch",
    "CannotEnter",
    "Chat",
    "Hidden",
    "LanguageModel",
    "LinearWeight",
    "Point",
    "SelfCheck",
    "Tokens",
    "active_edits",
    "adapter_base",
    "adapters_merged",
    "begin",
    "check_source",
    "container_of",
    "copied",
    "doubled",
    "entering",
    "equal_up_to_rounding",
    "find_layers",
    "has_float64",
    "head_weights",
    "hidden_into",
    "hidden_of",
    "in_fitting_batches",
    "in_order",
    "in_parts",
    "is_gguf",
    "is_out_of_memory",
    "is_probing",
    "joined",
    "last_check",
    "linear_weights",
    "load_adapter_weights",
    "logits_of_last",
    "map_in_batches",
    "merged",
    "moved",
    "next_batch",
    "placed",
    "probe_tokens",
    "probing",
    "reading",
    "relative_difference",
    "require_plain_weights",
    "require_room",
    "same_numbers",
    "shared_beginning",
    "stopping_after",
    "undisturbed",
    "usable_device",
    "with_hidden",
    "without_thoughts",
    "writing",
]
