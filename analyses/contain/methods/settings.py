"""Methods that change the training settings only."""

from __future__ import annotations

from analyses.study import method


@method(
    "adaptive",
    title="adaptive",
    does="equal shares with one multiplier per domain, which rises while the domain leaks",
    weighted=False,
    changes={"adaptive": True, "retain_unit": "loss"},
    colour="#8172b3",
)
class Adaptive:
    """One Lagrange multiplier per retained domain, held under a bound by dual ascent."""


@method(
    "kl",
    title="KL",
    does="KL divergence to the base model on the retained examples",
    changes={"retain_objective": "kl", "retain_unit": "loss"},
    colour="#937860",
)
class KL:
    """KL(base ‖ model) in place of cross-entropy as retain term."""
