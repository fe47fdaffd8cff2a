"""The options of training, which study, unlearn, matrix, contain and predict share."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from analyses.commands import COMMAS, PAIRS, opt
from analyses.options import (
    Autocast,
    GradientCheckpointing,
    LearningRate,
    MicroBatch,
    TrainBatch,
    listed,
    named_values,
)

if TYPE_CHECKING:
    from unlearning.training import TrainingSettings

# Options with another name than the field of ``TrainingSettings``; files use the field's name.
SETTINGS = {"trainable": "trained", "gradient_checkpointing": "activation_checkpointing"}
# Options that are lists of names.
LISTS = {"lora_targets", "lora_exclude"}


@dataclass(frozen=True)
class TrainingOptions:
    """How arms are trained; options that are not given keep the model's settings."""

    objective: str = opt(
        "npo",
        "Loss on the forget set (matrix takes several): {unlearning.losses:objective}.",
        metavar=COMMAS,
    )
    objective_file: Path | None = opt(
        None, "Python file of an objective; the same as --plugin (default: none)."
    )
    beta: float | None = opt(
        None, "NPO's inverse temperature β (default: 0.1; 0.5 for a model organism).", min=0
    )
    option: list[str] | None = opt(
        None, "Option of the objective, e.g. delta=0.5; may be repeated.", metavar=PAIRS
    )
    retain: str | None = opt(
        None,
        "Domains whose refusals are retained: equal (all others), alternate (every second one), "
        "or their names (default: none). Of study and unlearn only.",
        metavar=COMMAS,
    )
    retain_weight: list[float] | None = opt(
        None,
        "Weight of the retain loss. study and contain try several, smallest first, until one "
        "contains the leakage (default: 0.03, 0.1, 0.3, 1, 3 as ratios of gradient norms; for "
        "unlearn: 1 in units of the loss).",
        min=0,
    )
    retain_unit: str | None = opt(
        None,
        "Unit of the retain weight: loss (the forget loss has weight 1), or gradient (ratio of "
        "the gradients' norms at the base model) (default: loss for given weights).",
        metavar="<loss|gradient>",
    )
    retain_ratio: int = opt(1, "Number of retain examples per forget example.", min=1)
    retain_objective: str = opt(
        "cross_entropy", "Loss on the retain set: {unlearning.losses:retain_term}."
    )
    adaptive: bool = opt(
        False,
        "Learn one Lagrange multiplier per retained domain, which keeps its loss under a bound.",
    )
    slack: float = opt(
        0.1, "Distance of that bound above the base model's loss, in the retain loss's unit."
    )
    trainable: str | None = opt(
        None,
        "Trained parameters: lora, projections or all (default: lora; projections for a model "
        "organism).",
    )
    lora_rank: int = opt(128, "Rank of the LoRA adapters; alpha equals it.", min=1)
    lora_targets: str | None = opt(
        None,
        "Modules of the layers that alone get adapters, by name, e.g. q_proj,mlp.experts "
        "(default: every linear weight of the layers).",
        metavar=COMMAS,
    )
    lora_exclude: str | None = opt(
        None,
        "Modules of the layers that get no adapter, by name, e.g. out_proj (default: only those "
        "that cannot have one).",
        metavar=COMMAS,
    )
    layer: int | None = opt(
        None,
        "Layer whose states rmu and feature_l2 read, from 0 (default: a quarter of the depth).",
        min=0,
    )
    learning_rate: LearningRate = None
    batch_size: TrainBatch = None
    micro_batch_size: MicroBatch = None
    separate_backward: bool = opt(
        False, "Run separate backward passes for forget and retain: less memory."
    )
    gradient_checkpointing: GradientCheckpointing = False
    autocast: Autocast = False
    max_steps: int | None = opt(
        None, "Maximum number of optimizer steps (default: 200; 80 for a model organism).", min=1
    )

    def settings(self, own: TrainingSettings) -> TrainingSettings:
        """``own`` (the model's settings) with the given options."""
        from dataclasses import replace

        from unlearning.losses import FORGET

        FORGET.find(self.objective)
        options = dict(own.options) if self.objective == own.objective else {}
        options |= named_values(self.option, "--option")
        if self.beta is not None:
            options["beta"] = self.beta
        # Fields with the same name mean the same, but an arm has one of several given weights.
        asked = {SETTINGS.get(name, name): value for name, value in vars(self).items()}
        shared = {one.name for one in fields(own)} & asked.keys() - {"retain_weight"}
        given = {name: asked[name] for name in shared if asked[name] is not None}
        given |= {name: listed(given[name]) for name in LISTS & given.keys()}
        return replace(own, options=options, lora_alpha=float(self.lora_rank), **given)
