from . import activations as activations
from . import causes as causes
from . import directions as directions
from . import errors as errors
from . import figures as figures
from . import interventions as interventions
from . import model as model
from . import patching as patching
from . import plugins as plugins
from . import progress as progress
from . import readout as readout
from . import registry as registry
from . import selection as selection
from . import similarity as similarity
from . import statistics as statistics
from . import store as store

__all__ = [
    "activations",
    "causes",
    "directions",
    "errors",
    "figures",
    "interventions",
    "model",
    "patching",
    "plugins",
    "progress",
    "readout",
    "registry",
    "selection",
    "similarity",
    "statistics",
    "store",
]
