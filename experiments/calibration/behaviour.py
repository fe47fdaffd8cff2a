"""Settings of behaviour: rates, leakage, recovery, predictions, agreement, the paper's map."""

from __future__ import annotations

from experiments.calibration.comparisons import SETTINGS as COMPARISONS
from experiments.calibration.leakage import SETTINGS as LEAKAGE
from experiments.calibration.means import SETTINGS as MEANS
from experiments.calibration.proportions import SETTINGS as PROPORTIONS
from experiments.calibration.settings import Setting
from experiments.calibration.worlds import SETTINGS as WORLDS

SETTINGS: tuple[Setting, ...] = (*PROPORTIONS, *MEANS, *LEAKAGE, *COMPARISONS, *WORLDS)
