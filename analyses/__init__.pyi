from . import contain as contain
from . import deflect as deflect
from . import evaluate as evaluate
from . import explain as explain
from . import figures as figures
from . import matrix as matrix
from . import organism as organism
from . import predict as predict
from . import prompts as prompts
from . import recorded as recorded
from . import report as report
from . import reproduce as reproduce
from . import runs as runs
from . import study as study
from . import workbench as workbench

__all__ = [
    "contain",
    "deflect",
    "evaluate",
    "explain",
    "figures",
    "matrix",
    "organism",
    "predict",
    "prompts",
    "recorded",
    "report",
    "reproduce",
    "runs",
    "study",
    "workbench",
]
