from .checkpoints import Weights as Weights
from .checkpoints import lineage as lineage
from .devices import Device as Device
from .devices import device_of as device_of
from .devices import most_resident as most_resident
from .estimate import CostedModel as CostedModel
from .estimate import CostEstimate as CostEstimate
from .estimate import answering_estimate as answering_estimate
from .estimate import time_range as time_range
from .footprint import Footprint as Footprint
from .lengths import CHARACTERS_A_TOKEN as CHARACTERS_A_TOKEN
from .lengths import chat_of as chat_of
from .lengths import reading_of as reading_of
from .memory import Memory as Memory
from .memory import StepRows as StepRows
from .memory import peak as peak
from .memory import reading_memory as reading_memory
from .memory import step_memory as step_memory
from .memory import trained_model as trained_model
from .outcome import watched as watched
from .rates import Shapes as Shapes
from .reader import with_readers as with_readers
from .reader import workload_estimate as workload_estimate
from .work import MOST_NODES as MOST_NODES
from .work import USUAL_ANSWER as USUAL_ANSWER
from .work import Extent as Extent
from .work import Reading as Reading
from .work import Work as Work
from .work import once as once

__all__ = [
    "CHARACTERS_A_TOKEN",
    "MOST_NODES",
    "USUAL_ANSWER",
    "CostEstimate",
    "CostedModel",
    "Device",
    "Extent",
    "Footprint",
    "Memory",
    "Reading",
    "Shapes",
    "StepRows",
    "Weights",
    "Work",
    "answering_estimate",
    "chat_of",
    "device_of",
    "lineage",
    "most_resident",
    "once",
    "peak",
    "reading_memory",
    "reading_of",
    "step_memory",
    "time_range",
    "trained_model",
    "watched",
    "with_readers",
    "workload_estimate",
]
