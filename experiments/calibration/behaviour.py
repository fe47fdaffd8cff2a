"""Settings of behaviour: rates, leakage, recovery, predictions, agreement, the paper's map."""

from __future__ import annotations

from experiments.calibration.proportions import SETTINGS as PROPORTIONS
from experiments.calibration.settings import Setting

SETTINGS: tuple[Setting, ...] = (*PROPORTIONS,)
