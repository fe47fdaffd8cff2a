from .candidates import Candidates as Candidates
from .candidates import Choice as Choice
from .candidates import HeldOutChoice as HeldOutChoice
from .candidates import choose_held_out as choose_held_out
from .gate import TooFewPromptsError as TooFewPromptsError
from .gate import measure_gate as measure_gate
from .gate_result import DirectionGate as DirectionGate
from .transfer import TransferMatrix as TransferMatrix
from .transfer import measure_transfer as measure_transfer
from .trials import Prompts as Prompts
from .trials import next_token_divergence as next_token_divergence
from .trials import score_candidates as score_candidates

__all__ = [
    "Candidates",
    "Choice",
    "DirectionGate",
    "HeldOutChoice",
    "Prompts",
    "TooFewPromptsError",
    "TransferMatrix",
    "choose_held_out",
    "measure_gate",
    "measure_transfer",
    "next_token_divergence",
    "score_candidates",
]
