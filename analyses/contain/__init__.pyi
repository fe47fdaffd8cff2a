from .arms import EXAMPLES as EXAMPLES
from .arms import Design as Design
from .arms import held_out_splits as held_out_splits
from .arms import require_methods as require_methods
from .command import amounts_of as amounts_of
from .command import contain as contain
from .figures import containment_study_figure as containment_study_figure
from .study import FOLDER as FOLDER
from .study import run_containment as run_containment

__all__ = [
    "EXAMPLES",
    "FOLDER",
    "Design",
    "amounts_of",
    "contain",
    "containment_study_figure",
    "held_out_splits",
    "require_methods",
    "run_containment",
]
