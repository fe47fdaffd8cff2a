"""Make one arm of a plan in a separate process."""

from __future__ import annotations

from pathlib import Path

import torch

from analyses.runs import Progress
from analyses.study.baseline import establish
from analyses.study.context import study_context
from analyses.study.making import make_arm
from analyses.study.plan import StudyPlan
from interp import plugins


def make_planned(plan: StudyPlan, out: Path, name: str, threads: int) -> str:
    """Make the plan's arm of this name; return the name."""
    torch.set_num_threads(threads)
    plugins.use_all(plan.plugins)
    plugins.load_all()
    context = study_context(plan, out, Progress(quiet=True))
    [arm] = [arm for arm in plan.arms if arm.name == name]
    make_arm(context, establish(context), arm)
    return name
