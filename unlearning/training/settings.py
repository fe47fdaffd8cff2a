"""The training settings of one arm: a frozen record that checks its values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from interp.errors import InputError, expected
from interp.numbers import plain_number
from unlearning.losses import registry
from unlearning.training import parameters

# Settings that make a step fit the device; they change no result.
FITTING = frozenset({"micro_batch_size", "separate_backward", "activation_checkpointing"})
RETAIN_UNITS = ("loss", "gradient")
POSITIVE = (
    *("retain_ratio", "lora_rank", "lora_alpha", "batch_size", "micro_batch_size", "max_steps"),
    "beta",
)
NOT_NEGATIVE = (
    *("retain_weight", "multiplier_rate", "learning_rate", "max_grad_norm", "length_window"),
    "seed",
)


@dataclass(frozen=True)
class TrainingSettings:
    """The training settings of one arm.

    Attributes:
        objective: the loss on the forget set, by its name in the registry.
        options: hyperparameters of the objective that differ from its defaults, e.g.
            ``{"beta": 0.1}``.
        retain_objective: the loss on every retain group, a name in ``registry.RETAIN``.
        retain_weight: sum of the weights of the retain terms, in ``retain_unit``.
        retain_unit: ``loss``: the forget term has weight 1; ``gradient``: the weight is the ratio
            of the two gradients' norms at the base model, retain to forget
            (:mod:`unlearning.training.balance`), which carries over between models.
        retain_shares: share of that weight by group (default: equal shares).
        retain_ratio: retain examples for each forget example.
        adaptive: learn one multiplier per retain group, which rises while the group's term is
            above its bound; ``retain_weight`` is the initial value.
        slack: distance of a bound from the base model's value, in the term's unit.
        multiplier_rate: increase of a multiplier per step and unit of excess.
        trained: ``lora``, ``projections`` or ``all``.
        lora_rank, lora_alpha: of the adapters.
        lora_targets, lora_exclude: names of modules that alone get adapters, or get none, such as
            ``q_proj`` or ``mlp.experts``; by default every linear weight of the layers has one.
        layer: 0-based decoder layer; objectives on states read its output. None is a quarter of
            the depth.
        learning_rate: constant; AdamW without weight decay.
        adam_betas: of AdamW.
        batch_size: forget examples in one optimizer step, over all processes.
        micro_batch_size: forget examples in one forward; None is ``batch_size``.
        length_window: number of batches within which rows of similar length are grouped, at most
            one pass over the smallest group; 0 switches grouping off.
        separate_backward: run forget and retain rows in separate passes. The gradient is the
            same; memory holds the activations of one pass at a time.
        activation_checkpointing: compute activations again in the backward pass.
        autocast: run the forward in bfloat16 with float32 weights.
        max_grad_norm: maximum norm of the gradient; larger gradients are clipped.
        max_steps: maximum number of optimizer steps.
        seed: order of the examples, initial adapters, RMU's direction.

    Raises:
        InputError: a name is unknown or a number is out of range.
    """

    objective: str = "npo"
    options: Mapping[str, float] = field(default_factory=dict)
    retain_objective: str = "cross_entropy"
    retain_weight: float = 1.0
    retain_unit: str = "loss"
    retain_shares: Mapping[str, float] = field(default_factory=dict)
    retain_ratio: int = 1
    adaptive: bool = False
    slack: float = 0.1
    multiplier_rate: float = 0.1
    trained: str = "lora"
    lora_rank: int = 128
    lora_alpha: float = 128
    lora_targets: tuple[str, ...] = ()
    lora_exclude: tuple[str, ...] = ()
    layer: int | None = None
    learning_rate: float = 5e-5
    adam_betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 32
    micro_batch_size: int | None = None
    length_window: int = 8
    separate_backward: bool = False
    activation_checkpointing: bool = False
    autocast: bool = False
    max_grad_norm: float = 1.0
    max_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for one in fields(self):
            object.__setattr__(self, one.name, _plain(getattr(self, one.name)))
        objective = registry.for_forgetting(self.objective)
        retain = registry.RETAIN.find(self.retain_objective)
        options = objective.validated(self.options)
        trained = ("lora", *parameters.PARAMETERS)
        if self.trained not in trained:
            raise InputError(f"trained is {self.trained!r}{expected(self.trained, trained)}")
        if self.trained != "lora" and (self.lora_targets or self.lora_exclude):
            raise InputError(
                "--lora-targets and --lora-exclude choose adapters, and --trainable "
                f"{self.trained} has none; give --trainable lora"
            )
        if self.retain_unit not in RETAIN_UNITS:
            raise InputError(
                f"retain_unit is {self.retain_unit!r}{expected(self.retain_unit, RETAIN_UNITS)}"
            )
        if self.retain_unit == "gradient" and retain.is_distance:
            raise InputError(
                f"{retain.name} is a distance to the base model, where its gradient is 0; its "
                "weight is in units of the loss (--retain-unit loss)"
            )
        numbers = {**vars(self), "beta": options.get("beta", 1.0)}
        for name in POSITIVE:
            if numbers[name] is not None and not numbers[name] > 0:  # NaN is not, either
                raise InputError(f"{name} is {numbers[name]}; expected more than 0")
        for name in NOT_NEGATIVE:
            if not numbers[name] >= 0:
                raise InputError(f"{name} is {numbers[name]}; expected 0 or more")
        if math.isnan(self.slack):
            raise InputError("slack is nan; expected a number")
        if self.lora_alpha % 1 or self.seed >= 2**32:
            raise InputError(
                f"lora_alpha is {self.lora_alpha} and seed is {self.seed}; expected whole numbers, "
                "the seed below 2**32"
            )
        if self.batch_size % (self.micro_batch_size or self.batch_size):
            raise InputError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size "
                f"{self.batch_size}"
            )

    @property
    def hyperparameters(self) -> dict[str, float]:
        """All options of the objective, including its defaults."""
        return registry.for_forgetting(self.objective).validated(self.options)

    def described(self) -> dict[str, Any]:
        """Every setting, without those that older versions lacked and that have no effect."""
        found = {name: value for name, value in asdict(self).items() if value != ()}
        if self.retain_unit == "loss":
            del found["retain_unit"]
        return found


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's own, also in a mapping: settings are written as JSON."""
    if isinstance(value, Mapping):
        return {name: plain_number(one) for name, one in value.items()}
    return plain_number(value)
