"""Convert our settings to Trainer's arguments; switch off unused features of Trainer."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import TrainingArguments

from interp.errors import InputError
from interp.model import LanguageModel
from unlearning.training.settings import TrainingSettings
from unlearning.training.views import OF_OUTPUTS


def training_arguments(
    lm: LanguageModel,
    settings: TrainingSettings,
    needs: frozenset[str],
    folder: Path,
    checkpoint_every: int | None,
    report_to: str,
) -> TrainingArguments:
    """Trainer's arguments for ``settings``.

    Args:
        lm: the prepared model.
        settings: the training settings.
        needs: every quantity that the run's terms name.
        folder: the folder of the checkpoints.
        checkpoint_every: optimizer steps between checkpoints; None writes no checkpoints.
        report_to: trackers that Trainer knows.

    Raises:
        InputError: a tracker is not installed, or the batch cannot be split as asked.
    """
    from accelerate import PartialState

    _require_tracker(report_to)
    processes = PartialState(cpu=lm.device.type == "cpu").num_processes
    micro = settings.micro_batch_size or settings.batch_size // processes
    if micro < 1 or settings.batch_size % (micro * processes):
        raise InputError(
            f"batch_size {settings.batch_size} cannot be split into micro-batches of {micro} on "
            f"{processes} processes; give a multiple of {micro * processes}"
        )
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch_size // (micro * processes),
        max_steps=settings.max_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=settings.adam_betas[0],
        adam_beta2=settings.adam_betas[1],
        weight_decay=0.0,
        max_grad_norm=settings.max_grad_norm,
        # With an objective on inner states, the layers above them get no gradient.
        ddp_find_unused_parameters=not needs & OF_OUTPUTS,
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no" if checkpoint_every is None else "steps",
        save_steps=checkpoint_every or 500,
        report_to=report_to,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=lm.device.type == "cpu",
    )
    if arguments.world_size == 1:
        _use_device(arguments, lm.device)
    return arguments


def _require_tracker(name: str) -> None:
    """Check that a tracker is installed; asking imports all of them."""
    if name == "none":
        return
    from transformers.integrations import integration_utils

    known = ("none", "all", *integration_utils.get_available_reporting_integrations())
    if name not in known:
        raise InputError(f"report_to is {name}; installed are {', '.join(known)}")


def _use_device(arguments: TrainingArguments, device: torch.device) -> None:
    """Train in this process on the model's own device.

    Trainer takes the first GPU, and wraps the model in ``DataParallel`` where there are several:
    then a step has that many times the rows.
    """
    vars(arguments)["_setup_devices"] = device
    arguments._n_gpu = int(device.type == "cuda")
    if device.type == "cuda":
        torch.cuda.set_device(device)
