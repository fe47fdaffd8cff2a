"""Settings of the geometry of states: angles, gains, cosines, maps and causes."""

from __future__ import annotations

from experiments.calibration.settings import Setting

SETTINGS: tuple[Setting, ...] = ()
