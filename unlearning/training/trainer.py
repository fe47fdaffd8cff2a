"""Phase 2: the training loop, on ``transformers.Trainer``.

One step's loss is Σ_g w_g · (1/N_g) Σ_{i ∈ g} loss_g(i). Every group of the mixture (the forget
set, each retain group) is averaged over its GLOBAL number of examples in that optimizer step. So
loss and gradient do not depend on padding, micro-batches or the number of processes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from interp.errors import MachineError, TrainingError
from interp.model import LanguageModel, fitting
from unlearning.losses import npo_weight, sequence_log_ratio
from unlearning.training.arguments import training_arguments
from unlearning.training.balance import MEASURED, gradient_ratio
from unlearning.training.checkpoints import (
    Checkpointing,
    Stateful,
    StopOnSignal,
    newest_complete,
    reported,
    resume,
)
from unlearning.training.mixture import Mixture, collator, rows_of
from unlearning.training.parameters import restore_weights
from unlearning.training.reference import with_references
from unlearning.training.settings import TrainingSettings
from unlearning.training.stop_together import StopTogether
from unlearning.training.terms import Term, Weights, needs_of, term_weights, terms_of, weighted_sum
from unlearning.training.views import OF_OUTPUTS, View, supply_of

if TYPE_CHECKING:
    import pandas as pd


def unlearn_in_place(
    lm: LanguageModel,
    mixture: Mixture,
    settings: TrainingSettings,
    *,
    folder: str | Path,
    callbacks: Sequence[TrainerCallback] = (),
    around_forward: Callable[[], AbstractContextManager[object]] = nullcontext,
    cache: Path | None = None,
    checkpoint_every: int | None = None,
    states: Mapping[str, Stateful] | None = None,
    report_to: str = "none",
) -> pd.DataFrame:
    """Train ``lm`` (see :func:`~unlearning.training.prepare_in_place`) in place on ``mixture``.

    Args:
        lm: a prepared model.
        mixture: the examples; missing reference log-probs are computed.
        settings: the training settings.
        folder: the folder of the checkpoints; training resumes from a complete one there.
        callbacks: Trainer callbacks: scoring along the run, early stopping, progress.
        around_forward: context manager around every training step, e.g. one that ablates a
            direction.
        cache: folder of cached reference log-probs.
        checkpoint_every: optimizer steps between checkpoints; None writes no checkpoints.
        states: further state to keep in checkpoints, such as the scores so far.
        report_to: trackers that Trainer knows (``tensorboard``, …).

    Returns:
        The log, one row per step: ``step``, the loss, every term's mean, the mean log-ratio and
        NPO's mean weight W on the forget set, ``grad_norm``, ``learning_rate``; with adaptive
        weights, every retain term's rise above the base model; with these or weights in units of
        the gradient, every retain term's weight.

    Raises:
        InputError: the mixture lacks the pairs or the retain set that an objective needs.
        TrainingError: the loss or its gradient is not finite; names the step.
        MachineError: a step does not fit into memory, the disk is full, or SIGTERM came.
    """
    import pandas as pd

    terms = terms_of(settings, mixture)
    needs = needs_of(terms)
    folder = Path(folder)
    with _on_device_of(lm), _configuration_of(lm), _fitting(lm, settings):
        mixture = with_references(
            lm, mixture, terms[0].needs, retained="reference" in needs_of(terms[1:]), cache=cache
        )
        trainer = UnlearningTrainer(
            lm,
            mixture,
            settings,
            terms,
            training_arguments(lm, settings, needs, folder, checkpoint_every, report_to),
            callbacks,
            around_forward,
        )
        kept = {"weights": trainer.weights, **(states or {})}
        try:
            if checkpoint_every is None:
                trainer.train()
            else:
                _train_with_checkpoints(trainer, kept)
        finally:
            lm.model.eval()
    log = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    # A resumed run reads its history from JSON, where the keys have another order.
    return log[["step", "loss", *sorted(set(log.columns) - {"step", "loss", "epoch"})]]


def _on_device_of(lm: LanguageModel) -> AbstractContextManager[object]:
    """Trainer changes the process's current GPU; afterwards it is what it was."""
    return torch.cuda.device(lm.device) if lm.device.type == "cuda" else nullcontext()


@contextmanager
def _configuration_of(lm: LanguageModel) -> Iterator[None]:
    """Trainer turns the cache off in the configuration, which is saved; put it back afterwards."""
    config = lm.model.config
    kept = getattr(config, "use_cache", None)
    try:
        yield
    finally:
        if kept is not None:
            config.use_cache = kept


def _fitting(lm: LanguageModel, settings: TrainingSettings) -> AbstractContextManager[None]:
    """Say what makes a step smaller if it does not fit into memory."""
    rows = settings.micro_batch_size or settings.batch_size
    advice = [f"--micro-batch-size {rows // 2} (the same gradient)"] * (rows > 1)
    advice += ["--gradient-checkpointing"] * (not settings.activation_checkpointing)
    advice += ["--trainable lora"] * (settings.trained != "lora")
    return fitting(
        f"a training step of {rows} forget examples at a time",
        lm.device,
        f"give {', '.join([*advice, 'a smaller model'])}, or choose another --device",
    )


def _train_with_checkpoints(trainer: UnlearningTrainer, kept: Mapping[str, Stateful]) -> None:
    folder = Path(str(trainer.args.output_dir))
    with StopOnSignal() as stop, reported(folder):
        trainer.add_callback(stop)
        trainer.add_callback(Checkpointing(kept))
        start = resume(folder, kept)
        trainer.train(resume_from_checkpoint=str(start) if start else None)
    if stop.stopped_at is not None:
        raise MachineError(
            f"stopped by SIGTERM after step {stop.stopped_at}, which is saved under {folder}; "
            "the same command resumes from there"
        )
    if stop.received:
        raise MachineError("stopped by SIGTERM as training ended; the same command resumes")


class UnlearningTrainer(Trainer):
    """Trainer whose loss is the mixture's weighted terms; see the module's equation."""

    # compute_loss divides by the step's global counts itself; Trainer must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        lm: LanguageModel,
        mixture: Mixture,
        settings: TrainingSettings,
        terms: Sequence[Term],
        arguments: TrainingArguments,
        callbacks: Sequence[TrainerCallback],
        around_forward: Callable[[], AbstractContextManager[object]],
    ) -> None:
        stream = mixture.stream(
            settings.max_steps, settings.batch_size, window=settings.length_window
        )
        super().__init__(
            model=lm.model,
            args=arguments,
            train_dataset=stream,
            data_collator=collator(
                lm.chat,
                responses=any(not name.startswith("preferred") for name in terms[0].needs),
                preferred=terms[0].objective.on_pairs,
            ),
            callbacks=[_StepEnd(self), *callbacks, StopTogether()],
        )
        # What tells older versions of transformers the same as ``loss_is_scaled_for_ga``.
        self.model_accepts_loss_kwargs = True
        self.remove_callback(PrinterCallback)
        self.mixture = mixture
        self.stream = stream
        self.settings = settings
        self.terms = terms
        self.weights: Weights = term_weights(settings, mixture)
        self.around_forward = around_forward
        needs = [frozenset(term.needs) for term in terms]
        self.supply = supply_of(lm, needs, settings.layer, settings.seed)
        if settings.retain_unit == "gradient" and any(self.weights.values.values()):
            self.weights.scale(self._gradient_ratio(lm.model))
        self._names = [
            *(f"loss_{term.name}" for term in terms),
            *(f"rise_{name}" for name in self.weights.bounds),
            "log_ratio",
            "npo_weight",
        ]
        self._means: dict[str, Tensor] = {}
        self._noted: dict[str, float] = {}

    def _gradient_ratio(self, model: nn.Module) -> float:
        """Over the first examples, whatever their lengths; every process takes the same ones."""
        size = self.args.per_device_train_batch_size
        stream = self.mixture.stream(self.settings.max_steps, self.settings.batch_size)
        stop = min(MEASURED, len(stream))
        places = [range(start, min(start + size, stop)) for start in range(0, stop, size)]
        # Trainer's type of a collator is of rows as mappings; ours are positions of the stream.
        collate: Callable[[list[Any]], dict[str, Tensor]] = self.data_collator
        batches = [collate([stream[i] for i in place]) for place in places]

        @contextmanager
        def around() -> Iterator[None]:
            with self.around_forward(), self.compute_loss_context_manager():
                yield

        model.train()  # only then are activations computed again in the backward pass
        try:
            return gradient_ratio(
                model,
                [self._prepare_inputs(batch) for batch in batches],
                self.terms,
                self.weights.values,
                views_of=lambda batch: self.supply.views(model, batch),
                around=around,
            )
        finally:
            model.eval()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Trainer would leave out, without an error, the weights that files name otherwise."""
        restore_weights(model or self.model, Path(resume_from_checkpoint))

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        # The stream already has its final order.
        return SequentialSampler(self.stream)

    def _get_num_items_in_batch(self, batch_samples: list, device: torch.device) -> Tensor:
        """Examples of each group in this optimizer step, over all micro-batches and processes."""
        groups = torch.cat([batch["group"].where(batch["counted"], -1) for batch in batch_samples])
        numbers = torch.arange(len(self.terms), device=groups.device)
        counts = (groups[:, None] == numbers).sum(dim=0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        return counts

    def training_step(
        self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward, in one pass or in one for each of forget and retain."""
        # Also around backward, which computes checkpointed activations again.
        with self.around_forward():
            if self.settings.separate_backward and self.mixture.retain:
                return self._separate_steps(model, inputs, num_items_in_batch)
            return super().training_step(model, inputs, num_items_in_batch)

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager[object]:
        """bfloat16 for the forwards of a training step alone.

        Given to Trainer as ``bf16``, it would wrap the model for good: scores along the run, and
        the logits that the saved weights are compared with, would be in bfloat16 too.
        """
        return torch.autocast(
            self.args.device.type,
            torch.bfloat16,
            enabled=self.settings.autocast,
            cache_enabled=cache_enabled,
        )

    def _separate_steps(self, model: nn.Module, inputs: dict[str, Tensor], counts: Any) -> Tensor:
        forget = inputs["group"] == 0
        first, last = rows_of(inputs, forget), rows_of(inputs, ~forget)
        # Processes exchange gradients once, after the pass that reaches every parameter.
        if not needs_of(self.terms[1:]) & OF_OUTPUTS:
            first, last = last, first
        with self.accelerator.no_sync(model):
            loss = super().training_step(model, first, counts)
        return loss + super().training_step(model, last, counts)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Tensor:
        views = self.supply.views(model, inputs)
        loss, means = weighted_sum(self.terms, views, self.weights.values, num_items_in_batch)
        for name, mean in means.items():
            self._note(f"loss_{name}", mean)
        for term, view, count in zip(self.terms, views, num_items_in_batch, strict=True):
            if term.is_bounded and view:
                base = term.base_loss(view).sum() / count
                self._note(f"rise_{term.group}", means[term.name] - base)
        if views[0]:
            self._note_forgetting(views[0], num_items_in_batch[0])
        if not torch.isfinite(loss):
            raise TrainingError(self._not_finite(loss, inputs))
        # Processes' gradients are averaged afterwards; the terms are already global means.
        return loss * self.args.world_size

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """Trainer's norm, taken before the optimizer's step: where it is not finite, no step is."""
        norm = super()._get_grad_norm(model, grad_norm)
        if not torch.isfinite(torch.as_tensor(norm)):
            step = self.state.global_step + 1
            raise TrainingError(
                f"the gradient's norm is {float(norm)} at step {step}, although the loss is "
                f"finite; no step was taken. The objective {self.settings.objective} has no finite "
                "derivative there: keep its logarithms, roots and divisions away from 0, or lower "
                f"the learning rate ({self.settings.learning_rate:g})" + self._last_good()
            )
        return norm

    def _note_forgetting(self, view: View, count: Tensor) -> None:
        if {"log_probs", "reference", "mask"} <= view.keys():
            quantities = (view["log_probs"].detach(), view["reference"], view["mask"])
            ratio = sequence_log_ratio(*quantities)
            self._note("log_ratio", ratio.sum() / count)
            if self.settings.objective == "npo":
                weight = npo_weight(*quantities, beta=self.settings.hyperparameters["beta"])
                self._note("npo_weight", weight.sum() / count)

    def _note(self, name: str, value: Tensor) -> None:
        value = value.detach().float()
        noted = torch.stack([value, torch.ones_like(value)])
        self._means[name] = self._means[name] + noted if name in self._means else noted

    def end_step(self) -> None:
        """The step's means over all processes, and the weights that follow from them."""
        # A process may have no row of some group, so the summed tensor has a place for every name.
        absent = torch.zeros(2, device=self.args.device)
        noted = torch.stack([self._means.get(name, absent) for name in self._names])
        if self.args.world_size > 1:
            noted = self.accelerator.reduce(noted, reduction="sum")
        rows = zip(self._names, noted.tolist(), strict=True)
        means = {name: value for name, (value, times) in rows if times}
        self._means = {}
        if self.weights.bounds:
            rises = {name: means[f"rise_{name}"] for name in self.weights.bounds
                     if f"rise_{name}" in means}  # fmt: skip
            means |= self._named_weights()
            self.weights.update(rises)
        elif self.settings.retain_unit == "gradient":
            means |= self._named_weights()
        self._noted = means

    def _named_weights(self) -> dict[str, float]:
        return {f"weight_{name}": value for name, value in self.weights.values.items()}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Trainer's log with the step's terms, for the history and for every tracker."""
        super().log({**logs, **self._noted}, start_time)
        self._noted = {}

    def _not_finite(self, loss: Tensor, inputs: Mapping[str, Tensor]) -> str:
        groups = list(self.mixture.groups.values())
        places = zip(inputs["group"].tolist(), inputs["place"].tolist(), strict=True)
        ids = dict.fromkeys(groups[group][place].id for group, place in places)
        shown = ", ".join(list(ids)[:8]) + (", …" if len(ids) > 8 else "")
        return (
            f"the loss is {loss.item()} at step {self.state.global_step + 1}, on {shown}; lower "
            f"the learning rate ({self.settings.learning_rate:g}) or the weights"
            + self._last_good()
        )

    def _last_good(self) -> str:
        good = newest_complete(str(self.args.output_dir))
        return f"; the last good checkpoint is {good}" if good else ""


class _StepEnd(TrainerCallback):
    """Computes the trainer's means of a step before other callbacks read them."""

    def __init__(self, trainer: UnlearningTrainer) -> None:
        # Without a cycle, the model and the optimizer's state leave the device with the trainer.
        self.trainer = weakref.proxy(trainer)

    def on_step_end(self, *_arguments: Any, **_keywords: Any) -> None:
        self.trainer.end_step()
