from .candidates import Candidates as Candidates
from .candidates import Choice as Choice
from .candidates import HeldOutChoice as HeldOutChoice
from .candidates import choose_held_out as choose_held_out
from .trials import Prompts as Prompts
from .trials import next_token_divergence as next_token_divergence
from .trials import score_candidates as score_candidates

__all__ = [
    "Candidates",
    "Choice",
    "HeldOutChoice",
    "Prompts",
    "choose_held_out",
    "next_token_divergence",
    "score_candidates",
]
