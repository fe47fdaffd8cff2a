"""Settings of the geometry of states: directions, maps, whole representations, causes of a loss."""

from __future__ import annotations

from experiments.calibration.alignments import SETTINGS as ALIGNMENTS
from experiments.calibration.causes import SETTINGS as CAUSES
from experiments.calibration.directions import SETTINGS as DIRECTIONS
from experiments.calibration.maps import SETTINGS as MAPS
from experiments.calibration.settings import Setting

SETTINGS: tuple[Setting, ...] = (*DIRECTIONS, *MAPS, *ALIGNMENTS, *CAUSES)
