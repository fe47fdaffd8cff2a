"""Settings of states: directions, maps, whole representations, patching, causes of a loss."""

from __future__ import annotations

from experiments.calibration.alignments import SETTINGS as ALIGNMENTS
from experiments.calibration.causes import SETTINGS as CAUSES
from experiments.calibration.directions import SETTINGS as DIRECTIONS
from experiments.calibration.maps import SETTINGS as MAPS
from experiments.calibration.patching import SETTINGS as PATCHING
from experiments.calibration.settings import Setting

SETTINGS: tuple[Setting, ...] = (*DIRECTIONS, *MAPS, *ALIGNMENTS, *PATCHING, *CAUSES)
