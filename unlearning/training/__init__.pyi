from .adapters import adapter_inputs as adapter_inputs
from .adapters import fits as fits
from .adapters import unmoved_at_first as unmoved_at_first
from .checkpoints import discard_all as discard_all
from .checkpoints import newest_complete as newest_complete
from .coverage import Coverage as Coverage
from .coverage import coverage_of as coverage_of
from .eval_mode import release as release
from .forgetting import Bounds as Bounds
from .forgetting import ForgettingCurve as ForgettingCurve
from .forgetting import is_scored as is_scored
from .forgetting import target_rate as target_rate
from .mixture import Example as Example
from .mixture import Mixture as Mixture
from .parameters import restore_parameters as restore_parameters
from .parameters import save_parameters as save_parameters
from .precision import compute_as_inputs as compute_as_inputs
from .reference import with_references as with_references
from .saving import check_saved as check_saved
from .saving import keep_whole as keep_whole
from .saving import restore_with_logits as restore_with_logits
from .saving import save_with_logits as save_with_logits
from .scaling import scaled_change as scaled_change
from .settings import TrainingSettings as TrainingSettings
from .trainer import prepare_in_place as prepare_in_place
from .trainer import unlearn_in_place as unlearn_in_place

__all__ = [
    "Bounds",
    "Coverage",
    "Example",
    "ForgettingCurve",
    "Mixture",
    "TrainingSettings",
    "adapter_inputs",
    "check_saved",
    "compute_as_inputs",
    "coverage_of",
    "discard_all",
    "fits",
    "is_scored",
    "keep_whole",
    "newest_complete",
    "prepare_in_place",
    "release",
    "restore_parameters",
    "restore_with_logits",
    "save_parameters",
    "save_with_logits",
    "scaled_change",
    "target_rate",
    "unlearn_in_place",
    "unmoved_at_first",
    "with_references",
]
