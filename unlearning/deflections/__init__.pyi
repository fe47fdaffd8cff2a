from .phase_one import FEWEST_DEFLECTIONS as FEWEST_DEFLECTIONS
from .phase_one import Diversity as Diversity
from .phase_one import answers_in as answers_in
from .phase_one import diversity as diversity
from .phase_one import examples as examples
from .phase_one import read_deflections as read_deflections
from .phase_one import refusals_of as refusals_of
from .phase_one import respond as respond
from .phase_one import short_of_prompts as short_of_prompts
from .phase_one import with_own_ids as with_own_ids
from .phase_one import with_preferred as with_preferred
from .sampling import Sampling as Sampling
from .sampling import with_sampled_refusals as with_sampled_refusals

__all__ = [
    "FEWEST_DEFLECTIONS",
    "Diversity",
    "Sampling",
    "answers_in",
    "diversity",
    "examples",
    "read_deflections",
    "refusals_of",
    "respond",
    "short_of_prompts",
    "with_own_ids",
    "with_preferred",
    "with_sampled_refusals",
]
