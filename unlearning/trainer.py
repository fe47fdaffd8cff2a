"""Phase 2: the training loop, on ``transformers.Trainer``.

One step's loss is Σ_g w_g · (1/N_g) Σ_{i ∈ g} loss_g(i): every group of the mixture (the forget
set, each retain group) is averaged over its GLOBAL number of examples in that optimizer step, so
that loss and gradient do not depend on padding, micro-batches or the number of processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from interp.errors import InputError, TrainingError
from interp.model import LanguageModel
from unlearning import parameters
from unlearning.likelihood import response_log_probs
from unlearning.mixture import Mixture, collator
from unlearning.objectives import FORGET, RETAIN, Objective, npo_weight, sequence_log_prob

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TrainingSettings:
    """How one arm is trained.

    Attributes:
        objective: name in ``objectives.FORGET`` or, for a control arm, ``cross_entropy``.
        beta: NPO's β (1/nats).
        retain_weight: weight of the retain terms together; the forget term has weight 1.
        retain_ratio: retain examples beside each forget example.
        retain_reduction: ``sum`` (NPO's unit) or ``token_mean``.
        trained: ``lora``, ``projections`` or ``all``.
        lora_rank, lora_alpha: of the adapters.
        learning_rate: constant; AdamW without weight decay.
        adam_betas: of AdamW.
        batch_size: forget examples in one optimizer step.
        micro_batch_size: forget examples in one forward; None is ``batch_size``.
        max_grad_norm: gradients are clipped to this norm.
        max_steps: optimizer steps at most.
        seed: order of the examples and initial adapters.
    """

    objective: str = "npo"
    beta: float = 0.1
    retain_weight: float = 1.0
    retain_ratio: int = 1
    retain_reduction: str = "sum"
    trained: str = "lora"
    lora_rank: int = 128
    lora_alpha: float = 128
    learning_rate: float = 5e-5
    adam_betas: tuple[float, float] = (0.9, 0.999)
    batch_size: int = 32
    micro_batch_size: int | None = None
    max_grad_norm: float = 1.0
    max_steps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        choices = {
            "objective": (self.objective, (*FORGET, "cross_entropy")),
            "retain_reduction": (self.retain_reduction, tuple(RETAIN)),
            "trained": (self.trained, ("lora", *parameters.PARAMETERS)),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
        positive = ["beta", "retain_ratio", "lora_rank", "batch_size", "max_steps"]
        positive += ["micro_batch_size"] if self.micro_batch_size is not None else []
        for name in positive:
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected more than 0")
        if self.batch_size % (self.micro_batch_size or self.batch_size):
            raise InputError(
                f"micro_batch_size {self.micro_batch_size} does not divide batch_size "
                f"{self.batch_size}"
            )


def prepare(lm: LanguageModel, settings: TrainingSettings) -> LanguageModel:
    """The model with the chosen parameters trainable and dropout off; changed in place."""
    if settings.trained == "lora":
        lm = parameters.lora(
            lm, rank=settings.lora_rank, alpha=settings.lora_alpha, seed=settings.seed
        )
    else:
        lm = parameters.PARAMETERS[settings.trained](lm)
    parameters.dropout_off(lm.model)
    return lm


def unlearn(
    lm: LanguageModel,
    mixture: Mixture,
    settings: TrainingSettings,
    *,
    folder: str | Path,
    callbacks: Sequence[TrainerCallback] = (),
    around_forward: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> pd.DataFrame:
    """Train ``lm`` (see :func:`prepare`) in place on ``mixture``.

    Args:
        lm: a prepared model.
        mixture: forget examples carry their reference log-probs where the objective needs them.
        settings: how.
        folder: where Trainer may write.
        callbacks: Trainer callbacks: scoring along the run, early stopping, progress.
        around_forward: a context manager entered around every training forward, e.g. one that
            ablates a direction.

    Returns:
        The log, one row per step: ``step``, the loss, every term's mean, the mean log-ratio and
        NPO's mean weight W on the forget set, ``grad_norm``, ``learning_rate``.

    Raises:
        InputError: the objective needs reference log-probs and an example has none.
        TrainingError: the loss is not finite; names the step.
    """
    import pandas as pd

    bare = [one.id for one in mixture.forget if one.reference is None]
    if bare and needs_reference(settings):
        raise InputError(
            f"{settings.objective} needs the reference log-probs of every forget example; "
            f"{len(bare)} have none ({bare[0]}, …): add those that reference_log_probs gives"
        )
    micro = settings.micro_batch_size or settings.batch_size
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // micro,
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=settings.adam_betas[0],
        adam_beta2=settings.adam_betas[1],
        weight_decay=0.0,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=lm.device.type == "cpu",
    )
    trainer = UnlearningTrainer(lm, mixture, settings, arguments, callbacks, around_forward)
    trainer.train()
    lm.model.eval()
    log = [row for row in trainer.state.log_history if "loss" in row]
    return pd.DataFrame(log).drop(columns="epoch", errors="ignore")


class UnlearningTrainer(Trainer):
    """Trainer whose loss is the mixture's weighted terms; see the module's equation."""

    # compute_loss divides by the step's global counts itself; Trainer must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        lm: LanguageModel,
        mixture: Mixture,
        settings: TrainingSettings,
        arguments: TrainingArguments,
        callbacks: Sequence[TrainerCallback],
        around_forward: Callable[[], AbstractContextManager[object]],
    ) -> None:
        super().__init__(
            model=lm.model,
            args=arguments,
            train_dataset=mixture,
            data_collator=collator(lm.chat),
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)
        self.lm = lm
        self.mixture = mixture
        self.settings = settings
        self.around_forward = around_forward
        self.terms = terms(mixture, settings)
        self._step_means: dict[str, float] = {}

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # The mixture is already in the epoch's order.
        return SequentialSampler(self.mixture)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Examples of each group in this optimizer step, over all micro-batches and processes."""
        groups = torch.cat([batch["group"] for batch in batch_samples])
        counts = torch.bincount(groups, minlength=len(self.mixture.groups)).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return counts

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        forward = {k: inputs[k] for k in ("input_ids", "attention_mask", "position_ids")}
        if "position_ids" not in self.lm.forward_options:
            del forward["position_ids"]
        with self.around_forward():
            log_probs, mask = response_log_probs(model, forward, inputs["response_mask"])
        reference = inputs["reference"][:, -mask.shape[1] :]
        loss = log_probs.sum() * 0.0  # a batch without a group still has a gradient graph
        for number, (name, (weight, objective)) in enumerate(self.terms.items()):
            rows = inputs["group"] == number
            if not rows.any():
                continue
            values = objective(log_probs[rows], reference[rows], mask[rows])
            mean = values.sum() / num_items_in_batch[number]
            loss = loss + weight * mean
            self._note(f"loss_{name}", mean)
            if number == 0:
                share = rows.sum() / num_items_in_batch[0]
                self._note_forgetting(log_probs[rows], reference[rows], mask[rows], float(share))
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; lower the "
                f"learning rate ({self.settings.learning_rate:g}) or the weights"
            )
        # Processes' gradients are averaged afterwards; the terms are already global means.
        return loss * self.args.world_size

    def _note_forgetting(
        self, log_probs: Tensor, reference: Tensor, mask: Tensor, share: float
    ) -> None:
        if self.settings.objective == "npo":
            with torch.no_grad():
                ratio = sequence_log_prob(log_probs - reference, mask).mean() * share
                weight = npo_weight(log_probs, reference, mask, beta=self.settings.beta)
            self._note("log_ratio", ratio)
            self._note("npo_weight", weight.mean() * share)

    def _note(self, name: str, value: Tensor) -> None:
        self._step_means[name] = self._step_means.get(name, 0.0) + float(value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log with the step's terms, for the history and for every tracker."""
        super().log({**logs, **self._step_means}, start_time)
        self._step_means = {}


def terms(mixture: Mixture, settings: TrainingSettings) -> dict[str, tuple[float, Objective]]:
    """Weight and loss of every group: 1 for forget, equal shares of the weight for retain."""
    forget: Objective = (
        RETAIN["sum"] if settings.objective == "cross_entropy" else FORGET[settings.objective]
    )
    if settings.objective == "npo":
        forget = partial(forget, beta=settings.beta)
    found: dict[str, tuple[float, Objective]] = {"forget": (1.0, forget)}
    for name in mixture.retain:
        share = settings.retain_weight / len(mixture.retain)
        found[f"retain_{name}"] = (share, RETAIN[settings.retain_reduction])
    return found


def needs_reference(settings: TrainingSettings) -> bool:
    """Whether the forget examples must carry reference log-probs."""
    return settings.objective == "npo"


def as_dict(settings: TrainingSettings) -> Mapping[str, Any]:
    """Settings as an arm's config holds them."""
    return dict(vars(settings))
