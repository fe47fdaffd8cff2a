from .likelihood import forced_logits as forced_logits
from .likelihood import reference_log_probs as reference_log_probs
from .likelihood import response_log_probs as response_log_probs
from .likelihood import response_logits as response_logits
from .likelihood import response_width as response_width
from .likelihood import token_log_probs as token_log_probs
from .objectives import npo as npo
from .objectives import npo_weight as npo_weight
from .objectives import sequence_log_ratio as sequence_log_ratio
from .registry import FORGET as FORGET
from .registry import RETAIN as RETAIN
from .registry import Objective as Objective
from .registry import for_forgetting as for_forgetting
from .registry import objective as objective
from .registry import retain_term as retain_term

__all__ = [
    "FORGET",
    "RETAIN",
    "Objective",
    "for_forgetting",
    "forced_logits",
    "npo",
    "npo_weight",
    "objective",
    "reference_log_probs",
    "response_log_probs",
    "response_logits",
    "response_width",
    "retain_term",
    "sequence_log_ratio",
    "token_log_probs",
]
